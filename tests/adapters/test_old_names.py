"""Names that `semcache_core.adapters` exported before they were renamed."""

import pytest
from semcache_core import adapters


@pytest.mark.parametrize(("old", "new"), sorted(adapters._RENAMED.items()))
def test_an_old_name_is_the_present_object(old: str, new: str) -> None:
    assert getattr(adapters, old) is getattr(adapters, new)
    assert new in adapters.__all__ and old not in adapters.__all__


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'flown'"):
        _ = adapters.flown
