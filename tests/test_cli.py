"""The command line: exit codes, one clear line for each mistake, and nothing written then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_tucker import cli, parsers, pipeline
from onnx_tucker.cli import main
from tests.helpers import conv_model, two_layers

PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with good and bad files, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parsers.platformdirs, "user_cache_dir", lambda name: str(tmp_path.parent / "cache"))
    whole = two_layers().SerializeToString()
    files = {
        "in.onnx": whole,
        "empty.onnx": b"",
        "half.onnx": whole[: len(whole) // 2],
        "image.onnx": PNG,
        "noise.onnx": np.random.default_rng(0).bytes(4000),
        "pointer.onnx": POINTER,
        "there.onnx": b"old",
        "bad.json": b"{",
        "deep.json": b"[" * 100_000,
        "clip.toml": b"conv = 99\n",
        "word.toml": b'conv = "magic"\n',
        "ranks.json": b'{"conv": 3}',
        "exit.py": b"import sys\nsys.exit(0)\n",
        "score.py": b"def zero(run):\n    return 0.0\ndef nan(run):\n    return float('nan')\n"
        b"def most(run):\n    return float('inf')\n",
        "text.npz": b"x = 1\n",
        "cut.npz": b"PK\x03\x04",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "a.npz", x=np.ones((2, 24, 16, 16), np.float32))
    np.savez(tmp_path / "nothing.npz")
    np.savez(tmp_path / "key.npz", z=np.ones((2, 24, 16, 16), np.float32))
    np.savez(tmp_path / "shape.npz", x=np.ones((2, 23, 16, 16), np.float32))
    np.savez(tmp_path / "good.npz", x=np.random.default_rng(0).random((5, 24, 16, 16), np.float32))
    other = pipeline.compress(conv_model(np.ones((4, 4, 3), np.float32)), ranks="full", benchmark=False)
    (tmp_path / "other.json").write_text(other.plan.to_json())


MISTAKES = [
    ("none.onnx out.onnx", 1, "There is no file none.onnx"),
    ("folder.onnx out.onnx", 1, "folder.onnx is a folder"),
    ("empty.onnx out.onnx", 1, "empty.onnx is empty"),
    ("half.onnx out.onnx", 1, "damaged"),
    ("noise.onnx out.onnx", 1, "damaged"),
    ("image.onnx out.onnx", 1, "PNG image"),
    ("pointer.onnx out.onnx", 1, "git lfs pull"),
    (f"{'long' * 80}.onnx out.onnx", 1, "name too long"),
    (f"in.onnx {'long' * 80}.onnx", 1, "name too long"),
    ("in.onnx there.onnx", 1, "give --overwrite"),
    ("in.onnx folder.onnx --overwrite", 1, "is a folder"),
    ("in.onnx loop.onnx", 1, "loop.onnx cannot be written"),
    ("in.onnx a.onnx b.onnx", 2, "Unrecognized arguments: b.onnx"),
    ("in.onnx no/out.onnx", 1, "no folder"),
    ("in.onnx in.onnx", 2, "is an input itself"),
    ("in.onnx ./in.onnx --overwrite", 2, "is an input itself"),
    ("in.onnx out.onnx --data data --statistics-out data/a.npz --overwrite", 2, "is an input itself"),
    ("in.onnx out.onnx --report in.onnx --overwrite", 2, "the ending is one of"),
    ("in.onnx out.onnx --ranks ranks.json --report ranks.json --overwrite", 2, "ranks.json is an input itself"),
    ("in.onnx out.onnx --plan-out p.json --report sub/../p.json", 2, "same name"),
    ("in.onnx out.onnx --dim n=99999999999999999999", 2, "from 0 to 2147483647"),
    ("in.onnx out.onnx --min-speedup nan", 2, "--min-speedup"),
    ("in.onnx out.onnx --no-benchmark --eval exit.py:f --max-drop 0", 2, "SystemExit"),
    ("in.onnx out.onnx --ranks magic", 2, "unknown policy 'magic'"),
    ("in.onnx out.onnx --ranks magic", 2, "auto, or a .toml"),
    ("in.onnx out.onnx --ranks energy:2", 2, "from 0 to 1"),
    ("in.onnx out.onnx --ranks auto --budget time:0,5", 2, "--budget 5 in time:0,5"),
    ("in.onnx out.onnx --ranks auto --budget time:-1", 2, "--budget time:-1"),
    ("in.onnx out.onnx --ranks 0", 2, "at least 1"),
    ("in.onnx out.onnx --ranks clip.toml", 1, "do not fit"),
    ("in.onnx out.onnx --ranks word.toml", 1, "unknown policy 'magic'"),
    ("in.onnx out.onnx --ranks none.toml", 1, "none.toml cannot be read"),
    ("in.onnx out.onnx --data key.npz", 1, "the model's inputs are 'x'"),
    ("in.onnx out.onnx --data shape.npz", 1, "the model takes"),
    ("in.onnx out.onnx --data none.npz", 1, "no data file"),
    ("in.onnx out.onnx --data in.onnx", 1, "neither .npz nor .npy"),
    ("in.onnx out.onnx --data text.npz", 1, "neither .npz nor .npy"),
    ("in.onnx out.onnx --data cut.npz", 1, "cut short"),
    ("in.onnx out.onnx --data nothing.npz", 1, "has no arrays"),
    ("in.onnx out.onnx --data a:x:b.npz", 1, "no data file a:x:b.npz"),
    ("in.onnx out.onnx --plan other.json", 1, "for another model"),
    ("in.onnx out.onnx --plan bad.json", 1, "bad.json: The plan is not JSON"),
    ("in.onnx out.onnx --plan deep.json", 1, "deep.json: The plan is not JSON"),
    ("in.onnx out.onnx --ranks deep.json", 1, "The ranks file deep.json cannot be read"),
    ("in.onnx out.onnx --plan none.json", 1, "There is no plan none.json"),
    ("in.onnx out.onnx --flops many", 2, "--flops many"),
    ("in.onnx out.onnx --input-shape x:1,2", 2, "does not fit"),
    ("in.onnx out.onnx --input-shape 1,2", 2, "no shape like"),
    ("in.onnx out.onnx --dim n", 2, "no dimension like"),
    ("in.onnx out.onnx --dim q=2", 2, "no input has such a dimension"),
    ("in.onnx out.onnx --dim n=3 --input-shape x:2,24,16,16", 2, "--dim n=3, but an --input-shape gives n the size 2."),
    ("in.onnx out.onnx --report r.txt", 2, "the ending is one of"),
    ("in.onnx out.onnx --plan-out out.onnx", 2, "same name"),
    ("in.onnx out.onnx --magic", 2, "Unrecognized arguments: --magic"),
    ("in.onnx out.onnx --threads many", 2, "invalid int value"),
    ("in.onnx out.onnx --custom-op-lib none.so", 1, "none.so"),
    ("in.onnx", 2, "Name the file to write"),
    ("", 2, "required"),
    ("inspect none.onnx", 1, "There is no file none.onnx"),
    ("bench.onnx out.onnx", 1, "There is no file bench.onnx"),
    ("in.onnx out.onnx --plan other.json --plan-out other.json --overwrite", 2, "other.json is an input itself"),
    (
        "in.onnx out.onnx --custom-op-lib noise.onnx --plan-out noise.onnx --overwrite",
        2,
        "noise.onnx is an input itself",
    ),
    ("in.onnx out.onnx --eval score.py:zzz --plan-out score.py --overwrite", 2, "score.py is an input itself"),
    ("inspect", 2, "required"),
    ("in.onnx out.onnx --no-benchmark --ranks 1 --max-error 1e-6", 3, "above --max-error"),
    ("in.onnx out.onnx --no-benchmark --ranks full --fail-if-unchanged", 3, "Nothing was changed"),
    ("in.onnx out.onnx --no-benchmark --eval score.py:none --max-drop 0", 2, "has no function"),
    ("in.onnx out.onnx --no-benchmark --eval score.py:zzz --max-drop 0", 2, "--eval score.py:zzz"),
    ("in.onnx out.onnx --no-benchmark --eval score.py:nan --max-drop 0", 1, "gives nan"),
    ("in.onnx out.onnx --no-benchmark --eval score.py:most --max-drop 0", 1, "gives inf"),
]


def files() -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path().iterdir() if p.is_file()}


@pytest.mark.parametrize(("line", "code", "words"), MISTAKES, ids=[m[0] or "nothing" for m in MISTAKES])
def test_a_mistake_is_one_line_and_writes_nothing(
    line: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files()
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert last.startswith("onnx-tucker: error: ")
    assert words in last
    assert "Traceback" not in err
    assert out == ""
    assert files() == before


def test_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    line = "in.onnx out.onnx --ranks vbmf --keep-slower --report r.json --report r.md --report r.html --report r.csv"
    assert main([*line.split(), "--plan-out", "p.json", "--data", "good.npz"]) == 0
    out, err = capsys.readouterr()
    assert "conv" in out
    assert "2 of 2 factorized" in out
    assert not [line for line in err.splitlines() if "busy" not in line]  # which the machine may be
    onnx.checker.check_model("out.onnx", full_check=True)
    report = json.loads(Path("r.json").read_text())
    assert report["fidelity"]["inputs"] == "data"
    assert {"p.json", "r.md", "r.html", "r.csv"} <= set(files())
    assert main("in.onnx again.onnx --plan p.json --data good.npz -q".split()) == 0
    assert capsys.readouterr().out == ""
    assert Path("again.onnx").read_bytes() == Path("out.onnx").read_bytes()


def test_where_stderr_is_no_terminal_lines_say_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "in.onnx out.onnx --data good.npz --no-benchmark --no-cache --overwrite"
    assert main(command.split()) == 0
    assert not capsys.readouterr().err  # it took less than half a minute
    monkeypatch.setattr(cli, "APART", 0.0)
    assert main(command.split()) == 0
    assert "onnx-tucker: factorising, 0 of 2\n" in capsys.readouterr().err
    assert main([*command.split(), "-q"]) == 0
    assert not capsys.readouterr().err


def test_the_same_command_twice_gives_the_same_bytes() -> None:
    for name in ("a.onnx", "b.onnx"):
        assert main(["in.onnx", name, "--ranks", "ratio:0.4"]) == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_json_on_stdout_is_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("in.onnx out.onnx --no-benchmark --report -".split()) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "onnx-tucker/report/1"


def test_random_inputs_are_said_to_be_random(capsys: pytest.CaptureFixture[str]) -> None:
    main("in.onnx out.onnx --no-benchmark".split())
    assert "random noise (no --data), which says little" in capsys.readouterr().out


def test_output_that_nobody_reads_is_no_failure() -> None:
    command = f"{sys.executable} -m onnx_tucker in.onnx out.onnx --no-benchmark"
    process = subprocess.Popen(command.split(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 0
    assert Path("out.onnx").exists()


def test_a_dry_run_needs_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    assert main("in.onnx --dry-run --no-benchmark".split()) == 0
    assert "tucker" in capsys.readouterr().out
    assert files() == before


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("inspect in.onnx --flops thesis --report -".split()) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["flops"] == "thesis"
    assert report["totals"]["time_ms"]["before"] > 0
    assert {node["reason"] for node in report["nodes"] if node["status"] == "kept"} == {"can be factorised"}
    assert main("inspect in.onnx --no-benchmark --report r.json".split()) == 0
    assert {node["reason"] for node in json.loads(Path("r.json").read_text())["nodes"]} == {"can be factorised"}


def test_a_command_that_is_mistyped_is_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("insepct in.onnx --no-benchmark".split()) == 2
    assert "There is no file insepct; the command is inspect." in capsys.readouterr().err
    assert main("--ranks 8 inspect in.onnx --no-benchmark".split()) == 2
    assert "inspect is a command, which comes first: onnx-tucker inspect ..." in capsys.readouterr().err


def test_what_is_missing_is_said_before_what_is_in_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("none.onnx in.onnx --no-benchmark".split()) == 1
    assert "There is no file none.onnx." in capsys.readouterr().err


def test_verbose_says_what_it_does_and_where_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("in.onnx out.onnx --no-benchmark -v".split()) == 0
    assert "conv: " in capsys.readouterr().err
    assert main("none.onnx out.onnx -v".split()) == 1
    assert "Traceback" in capsys.readouterr().err


def test_names_and_options_come_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("in.onnx --ranks 2 out.onnx --no-benchmark".split()) == 0
    assert main("-q --no-benchmark --ranks 2 in.onnx other.onnx".split()) == 0
    assert Path("out.onnx").read_bytes() == Path("other.onnx").read_bytes()
    capsys.readouterr()
    assert main("-q inspect --no-benchmark in.onnx".split()) == 0
    assert capsys.readouterr().out == ""
    assert main("compare in.onnx --no-benchmark out.onnx".split()) == 0


def test_bugs_are_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pipeline, "compress", fail)
    assert main("in.onnx out.onnx".split()) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_help_and_version_and_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("--help", "inspect --help", "--version"):
        with pytest.raises(SystemExit) as caught:
            main(line.split())
        assert caught.value.code == 0
    assert "onnx-tucker 0" in capsys.readouterr().out
    command = [sys.executable, "-m", "onnx_tucker", "in.onnx", "out.onnx", "--no-benchmark"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("out.onnx").exists()
