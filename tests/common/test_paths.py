"""Where converted models and features are kept."""

import pytest

from common.errors import MachineError
from common.paths import cache_dir


def test_the_variable_names_the_folder_and_home_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("FAVCHAT_CACHE", str(tmp_path / "a" / "b"))
    assert cache_dir("features", "x") == tmp_path / "a" / "b" / "features" / "x"
    assert (tmp_path / "a" / "b" / "features" / "x").is_dir()
    monkeypatch.setenv("FAVCHAT_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir("converted") == tmp_path / "home" / ".cache" / "favchat" / "converted"


@pytest.mark.parametrize("place", ["/proc/nope", "file/below"])
def test_a_folder_that_cannot_be_made_is_named_with_the_variable(place, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAVCHAT_CACHE", str(tmp_path / place))  # an absolute place stays itself
    with pytest.raises(MachineError, match=f"{place}/features .*set FAVCHAT_CACHE to"):
        cache_dir("features")
