"""A project's scripts as a user runs them, for the tests of all projects."""

import pytest

from common.cli.script import script

__all__ = ["refused", "run"]


def run(module, *arguments):
    """Run a script in this process with these arguments, as its command line would."""
    script(module.main, module.PRESETS, [str(argument) for argument in arguments])


def refused(capsys, module, *arguments):
    """The one line with which a script refuses: exit code 2, no traceback."""
    with pytest.raises(SystemExit) as stopped:
        run(module, *arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 1, lines
    return lines[0]
