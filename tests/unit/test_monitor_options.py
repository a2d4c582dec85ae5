"""Options that an adapter hands on to ``monitor``: what is wrong is refused where it was given, in one sentence."""

from __future__ import annotations

import pytest

from esper_core.errors import UsageError
from esper_core.monitoring.options import monitor_options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nmae": "walk"}, "esper: no such option 'nmae', did you mean \"name\"?"),
        ({"kl_warnin": 0.1}, 'did you mean "kl_warning"?'),
        ({3: "walk"}, "esper: no such option 3"),
        ("walk", "esper: expected a dict of options (is 'walk')"),
        ({"library": "mine"}, "esper: library cannot be set: it is read from the library that trains"),
        ({"heads": "hip"}, "esper: heads: expected different names (is 'hip')"),
        ({"heads": 3}, "esper: heads: expected different names (is 3)"),
        ({"heads": ()}, "esper: heads: expected different names (is ())"),
        ({"heads": ("hip", "hip")}, "esper: heads: expected different names"),
        ({"heads": (["hip"], 2)}, "esper: heads: expected different names"),
        ({"heads": ("hip", "")}, "esper: heads: expected different names"),
        ({"head_kinds": "gaussian"}, "esper: head_kinds: expected a kind for each head"),
        ({"head_kinds": ["gausian"]}, "esper: head_kinds: no such word 'gausian', did you mean \"gaussian\"?"),
        ({"granularity": "tokens"}, "esper: granularity: no such word 'tokens', did you mean \"token\"?"),
        ({"target_kl": "0.02"}, "esper: target_kl is str; a number is needed"),
        ({"clip_range": -0.2}, "esper: clip_range is -0.2; a number from 0 is needed"),
        ({"clip_range": lambda _: 0.2}, "esper: clip_range is a schedule"),
        ({"minibatches_planned": 0}, "esper: minibatches_planned is 0; a whole number from 1 is needed"),
        ({"rank": "first", "world": 2}, "esper: rank is str; a number is needed"),
        ({"default_limits": (0.1,)}, "esper: default_limits: expected two numbers"),
        ({"environment": object()}, "esper: environment: expected an id (is object)"),
        ({"settings": {"run": 3}}, "esper: settings: expected a dict of tables"),
        ({"reduce": 3}, "esper: reduce: expected a function (is 3)"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(given: object, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        monitor_options("esper", given, own=("library",))
    assert message in str(refused.value)


def test_right_options_come_back_as_they_are() -> None:
    given = {"name": "walk", "heads": ["hip", "knee"], "sinks": [], "kl_warning": 0.1}
    assert monitor_options("esper", given) == given
