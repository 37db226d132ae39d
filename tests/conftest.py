"""Fixtures that every test file may use. Real data lies beside the checkout; strangers run the suite without it."""

import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pixeltrail import cli

# Started in the background, pytest inherits an ignored Ctrl-C and would hand it on to what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips, masks and flow; skips the test where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"real data not found: {DATA.parent.name}/{DATA.name} is expected beside the checkout")
    return DATA


@pytest.fixture
def run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str, str]]:
    """Run a command line in a folder of its own where the inputs are that the file's fixture `made` gives; exit code,
    stdout and stderr."""
    for item in made.iterdir():
        (tmp_path / item.name).symlink_to(item)
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.main(shlex.split(line))
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def fails(run: Callable[[str], tuple[int, str, str]], tmp_path: Path) -> Callable[..., None]:
    """Run a command line that must be refused in one line with these words, and leave no new file anywhere but in
    ``leaves``, an unfinished job."""

    def fails(line: str, *words: str, code: int = 2, leaves: str = "") -> None:
        before = sorted(tmp_path.rglob("*"))
        got, out, err = run(line)
        assert (got, out) == (code, ""), err
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert "Traceback" not in err
        missing = [word for word in words if word not in err]
        assert not missing, f"{err} lacks {missing}"
        left = set(tmp_path.rglob("*")) - set(before)
        assert not {p for p in left if not (leaves and p.is_relative_to(tmp_path / leaves)) or p.suffix == ".part"}

    return fails
