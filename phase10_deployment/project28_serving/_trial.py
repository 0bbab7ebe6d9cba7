"""For tests and experiments: an engine and a service over a model folder, of a tiny size."""

from common import hub, tokenizer

from .assemble import Switches, assemble
from .limits import Keys
from .service import Bounds, Service


def engine_of(folder, **switches):
    """An engine over a model of its own, float64 where `double` says so."""
    double = switches.pop("double", False)
    model = hub.load(folder)
    settings = {"tokens": 1024, "max_batch": 8, "max_step_tokens": 64, **switches}
    return assemble(model.double() if double else model, tokenizer.load(folder), Switches(**settings))


def service_of(folder, *, keys=None, bounds=None, name="tiny", make=None, **switches):
    return Service(engine_of(folder, **switches), name, keys=Keys(keys), bounds=bounds or Bounds(), make=make)
