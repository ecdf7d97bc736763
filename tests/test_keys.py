import pytest

from causcade import _keys


def test_suffixes_are_distinct_and_start_with_the_stem():
    made = [f("hits") for f in (_keys.sd, _keys.fdr, _keys.pvalue, _keys.n_draws)]
    made += [_keys.baseline("hits", b) for b in (_keys.POPULARITY, _keys.KNOCKOUT_T)]
    assert len(set(made)) == len(made)
    assert all(m.startswith("hits_") for m in made)
    assert _keys.embedding("gracevae") == "X_gracevae"


@pytest.mark.parametrize("bad", ["a/b", "", "  ", None, 3])
def test_check_key_refuses_what_cannot_be_written(bad):
    with pytest.raises(ValueError, match="key_added"):
        _keys.check_key(bad)
    assert _keys.check_key("mine") == "mine"
