"""What the experiments share: a model folder, servers in processes of their own, requests."""

from functools import cached_property

from common import hub
from common.cli import chain, explore

from . import _load, _server
from .assemble import Switches


class Lab(explore.Album):
    """The config and the run; `folder`: the model that is served."""

    def __init__(self, config, run):
        self.config, self.run, self.say = config, run, run.say

    @cached_property
    def folder(self):
        return chain.find("sft", self.config.model, say=self.say)

    def server(self, *arguments, max_batch=None):
        """One server, ready; a context."""
        batch = ["--max_batch", self.config.max_batch if max_batch is None else max_batch]
        return self.servers(1, *batch, *arguments)

    def servers(self, count, *arguments):
        """So many of them."""
        where = "--model", self.folder, "--device", self.run.device.type
        return _server.replicas(count, *where, *arguments)

    def service(self, **options):
        """A Service in this process, for what is counted rather than timed."""
        switches = Switches(**{"tokens": 2048, "max_batch": 4, **options.pop("switches", {})})
        return _server.served(self.folder, switches, device=self.run.device, **options)

    def bodies(self, count, **options):
        return _load.bodies(self.folder, count, median=self.config.median, longest=self.config.longest,
                            **options)  # fmt: skip

    @cached_property
    def context(self):
        return hub.load(self.folder).config.max_seq_len
