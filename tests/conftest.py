"""Fixtures that every test file may use. Real data lies beside the checkout; strangers run the suite without it."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips, masks and flow; skips the test where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"real data not found: {DATA.parent.name}/{DATA.name} is expected beside the checkout")
    return DATA
