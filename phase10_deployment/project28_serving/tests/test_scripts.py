"""The scripts and the lesson: a server that asks itself, a router, experiments, the bench, the proofs."""

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from common.cli.bench import bench as run_bench
from common.proofs import prove
from common.trial import commands, metrics, model_folder, refused, run, unplugged
from phase10_deployment.project28_serving import (
    _server,
    bench,
    engine_loop,
    explore,
    serve,
    several,
)

HERE = Path(engine_loop.__file__).parent
LESSON = HERE / "README.md"


@pytest.fixture
def home(home):
    """A place of its own for runs, and a tiny model where the chain would have its own."""
    model_folder(home / "models" / "sft", loud=8, max_seq_len=512, n_layer=1, d_model=16)
    return home


def test_smoke_serve(home, capsys):
    """It serves, asks itself the same question twice, finds the second prompt there, and stops."""
    run(serve, "smoke", "--out", "here", "--log", "lines.jsonl", "--max_tokens", 4)
    said = capsys.readouterr().out
    assert said.count("first token after") == 2 and "/v1" in said
    found = metrics(home / "here")
    assert found["asked"] == 2 and found["cached tokens"] >= 32
    lines = [json.loads(line) for line in (home / "lines.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and {line["status"] for line in lines} == {200}


def test_is_on_in_the_script(home):
    """An owner that cannot collect its orders makes the script fail: it is what serves."""
    service = _server.served(home / "models" / "sft", serve.PRESETS["smoke"].switches())
    with unplugged(engine_loop.EngineLoop.collect):
        service.loop.turn()


@pytest.mark.slow
def test_smoke_several(home):
    """Two processes behind a router: each of four beginnings goes to one of them, and is found there."""
    run(several, "smoke", "--out", "here")
    found = metrics(home / "here")
    assert found["sent"] == 16 and found["cached tokens"] > 0 and 1 <= found["servers used"] <= 2


def test_smoke_explore(home, capsys):
    """What needs no process of its own, in small; what must hold holds, and the breaks break."""
    run(explore, "smoke", "--out", "here", "--parts", "hangup", "sidechannel", "lock")
    found = metrics(home / "here")
    assert found["hangup: listening, still running"] == 0
    assert found["sidechannel: a cache for each key, found out"] <= 1
    assert (home / "here" / "sidechannel.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_smoke_explore_with_servers(home):
    """The rest, with servers in processes of their own."""
    run(
        explore, "smoke", "--out", "here", "--parts", "latency", "dashboard", "routing", "overload", "replica"
    )
    found = metrics(home / "here")
    assert found["dashboard: lost"] == found["overload: a door, lost"] == 0
    assert found["routing: prefix, cached"] >= found["routing: round, cached"]
    for name in ("latency", "dashboard", "routing", "overload"):
        assert (home / "here" / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


@pytest.mark.slow
def test_smoke_bench(home):
    """Every claim is made, nobody is lost, and what cannot run here says so."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert {"objective", "http", "http-whole", "ttft", "itl", "transformers", "overload", "leaks", "together",
            "latency", "replica", "gpu"} <= set(claims)  # fmt: skip
    for must in ("overload", "leaks", "replica"):
        assert claims[must]["verdict"] == "met", claims[must]
    assert claims["gpu"]["verdict"] is None


def test_bad_input(home, capsys):
    assert "port must lie" in refused(capsys, serve, "smoke", "--port", 99999)
    assert "kv must be float or int8" in refused(capsys, serve, "smoke", "--kv", "int3")
    assert "it takes paged" in refused(capsys, serve, "smoke", "--kv", "int8", "--no-paged")
    assert "no file of keys" in refused(capsys, serve, "smoke", "--keys", "nowhere.json")
    assert "policy must be" in refused(capsys, several, "smoke", "--policy", "luck")
    assert "no server to pass" in refused(capsys, several, "smoke", "--replicas", 0)
    assert "no part is called" in refused(capsys, explore, "smoke", "--parts", "film")
    with _server.bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert "take another --port" in refused(capsys, serve, "smoke", "--port", port)


def test_addresses():
    """What is said is what a client can ask, of both families."""
    for host, want in (
        ("127.0.0.1", "http://127.0.0.1:"),
        ("0.0.0.0", "http://127.0.0.1:"),
        ("::1", "http://[::1]:"),
    ):
        if host == "::1" and not socket.has_ipv6:
            continue
        with _server.bound(host, 0) as sock:
            assert _server.address(sock).startswith(want)


# ---- deploy ----


def test_units_and_rules_name_what_is_there():
    """The service file starts our script with fields that it has; the alerts ask for figures that exist."""
    unit = (HERE / "deploy" / "thirty-serve@.service").read_text("utf-8")
    assert _server.SERVE in unit and "--keys" in unit and "--log" in unit
    source = (HERE / "metrics.py").read_text("utf-8")
    for name in (
        "vllm:time_to_first_token_seconds",
        "vllm:inter_token_latency_seconds",
        "thirty:requests_refused",
    ):
        assert name in source and name in (HERE / "deploy" / "alerts.yml").read_text("utf-8")


@pytest.mark.slow
def test_nginx_takes_its_configuration(tmp_path):
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    done = subprocess.run(["nginx", "-t", "-p", str(tmp_path), "-c", str(HERE / "deploy" / "nginx.conf")],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_ray_serve_builds_the_application(home):
    pytest.importorskip("ray.serve")
    from phase10_deployment.project28_serving.deploy import ray_serve

    bound = ray_serve.build({"model": str(home / "models" / "sft"), "tokens": 1024})
    assert bound is not None


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 28 …` and `explore 28 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs(home):
    """What stands under "In production" is true, against our own server."""
    pytest.importorskip("openai")
    import re

    (code,) = re.findall(r"```python\n(.*?)```", LESSON.read_text("utf-8"), flags=re.S)
    service = _server.served(home / "models" / "sft", serve.PRESETS["smoke"].switches())
    with _server.in_thread(_server.created(service)) as url:
        space = {}
        exec(compile(code.replace("http://127.0.0.1:8000", url), "<the lesson>", "exec"), space)
    assert space["text"]


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
