"""Ray Serve: replicas on the machines of a cluster, more of them when more wait.

    serve run phase10_deployment.project28_serving.deploy.ray_serve:app model=data/models/sft

Ray starts and watches the processes and routes between them. The requests themselves are still ours: each
replica holds the whole application of `api.py`, with its own engine.
"""

from ray import serve

from phase10_deployment.project28_serving import _server
from phase10_deployment.project28_serving.assemble import Switches


def build(arguments):
    """The deployment of a model folder. arguments: model, replicas (at most, 2), and any of the switches."""
    arguments = dict(arguments)
    folder, most = arguments.pop("model"), int(arguments.pop("replicas", 2))
    switches = Switches(**arguments)

    def application():
        return _server.created(_server.served(folder, switches))

    @serve.deployment(
        max_ongoing_requests=256,
        health_check_period_s=2,
        graceful_shutdown_timeout_s=30,
        autoscaling_config={"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": 32},
        ray_actor_options={"num_cpus": 1},
    )
    @serve.ingress(application)
    class Model:
        """One replica; Ray calls its health check and replaces it where that fails."""

    return Model.bind()


app = build
