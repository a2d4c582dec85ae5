"""The data contract: every event Esper emits, as frozen, keyword-only dataclasses of plain values.

Floats, ints, strings and tuples only, never tensors: values are converted once, where they are measured. A field
that was not measured is None, never a made-up 0. Equality treats NaN as equal to NaN, so that
``decode(encode(event)) == event`` holds for every event. Fields are only ever added, with defaults.

Each field says what it means, its unit and whether its last value is a gauge, as metadata of the dataclass field.
Attributes, OTLP JSON, gauges, the registry in ``esper_core/semconv`` and the reference pages are made of that: a new
metric is one field here and one line where it is measured.
"""

from __future__ import annotations

from esper_core.events import envelope, fields, kinds, run, update
from esper_core.events._record import EventKind, Payload
from esper_core.events.envelope import *  # noqa: F403  # a new event is exported by its own module's __all__
from esper_core.events.fields import *  # noqa: F403
from esper_core.events.kinds import *  # noqa: F403
from esper_core.events.run import *  # noqa: F403
from esper_core.events.update import *  # noqa: F403

__all__ = ["EventKind", "Payload"]
__all__ += envelope.__all__
__all__ += fields.__all__
__all__ += kinds.__all__
__all__ += run.__all__
__all__ += update.__all__
