"""What the environment says of a process, and what is wrong with it."""

from dataclasses import replace

import pytest

from spava_app.engine.workers.torchrun.agent import worker_environment
from spava_app.engine.workers.torchrun.calls import Alone, Follower, Leader, calls_here
from spava_app.engine.workers.torchrun.environment import Place
from spava_app.engine.workers.torchrun.launcher import AgentLauncher
from spava_app.engine.workers.torchrun.listener import Address, listen
from spava_app.engine.workers.torchrun.rendezvous import look_up, publish
from spava_app.errors import EngineDown, EngineError, InvalidInput

GIVEN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}


def test_a_process_of_its_own() -> None:
    assert Place.from_environment({"MASTER_ADDR": "10.0.0.1", "LOCAL_WORLD_SIZE": "2"}) is None


def test_one_of_several() -> None:
    place = Place.from_environment({**GIVEN, "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert place == Place(3, 4, 1, 2, "10.0.0.1", 29500, hosted=True)
    assert not place.one_machine
    assert place.host == "10.0.0.1"


def test_one_machine_listens_on_loopback_whatever_its_name() -> None:
    place = Place.from_environment({**GIVEN, "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "3"})
    assert place is not None
    assert not place.hosted
    assert place.host == "127.0.0.1"


@pytest.mark.parametrize("name", GIVEN)
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name}=None: must be set where") as raised:
        Place.from_environment({key: value for key, value in GIVEN.items() if key != name})
    assert raised.value.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "4"),
        ("RANK", "-1"),
        ("RANK", "one"),
        ("WORLD_SIZE", "0"),
        ("LOCAL_RANK", "2"),
        ("LOCAL_WORLD_SIZE", "5"),
        ("MASTER_PORT", "70000"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        Place.from_environment(GIVEN | {name: value})
    assert (raised.value.field, raised.value.value) == (name, value)


def test_a_worker_uses_the_interface_to_rank_0_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    place = Place.from_environment()
    assert place is not None
    environment = worker_environment(place, "127.0.0.1")
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert environment["NCCL_SOCKET_IFNAME"] == "ib0"
    assert not GIVEN.keys() & environment.keys()


def place_of(rank: int, address: str) -> Place:
    """Of two machines with one process each; rank 0 serves the store, at a port that was free."""
    with listen("127.0.0.1") as listener:
        port = listener.getsockname()[1]
    return Place(rank, 2, 0, 1, address, port, hosted=False)


def test_rank_0_on_another_machine_than_master_addr() -> None:
    with pytest.raises(InvalidInput, match=r"MASTER_ADDR='192\.0\.2\.1': rank 0 must run where"):
        AgentLauncher(place_of(0, "192.0.2.1"), lambda: 0).join()


def test_a_process_that_does_not_come_is_named() -> None:
    launcher = AgentLauncher(place_of(0, "127.0.0.1"), lambda: 0)
    with pytest.raises(EngineDown, match="rank 1 has not called within 1 s"):
        launcher.join(within=1)


def test_a_rank_0_that_does_not_come_is_named() -> None:
    lead = place_of(0, "127.0.0.1")
    publish(lead, 5, Address("127.0.0.1", 1, "token"))
    follow = replace(lead, rank=1)
    assert look_up(follow, 5).token == "token"
    with pytest.raises(EngineDown, match="rank 0 has not called within 1 s"):
        look_up(follow, 6, within=1)


def test_two_calls_at_a_time_are_refused_and_the_next_is_not() -> None:
    follower = Follower(place_of(1, "127.0.0.1"))
    with follower._counted.one(), pytest.raises(EngineError, match="while another question"):
        follower.call("ask", print, str)
    with follower._counted.one() as number:
        assert number == 2


def test_a_process_of_one_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, {"RANK": "0", "LOCAL_RANK": "0"}.get(name, value))
    assert isinstance(calls_here(), Leader)
    monkeypatch.setenv("RANK", "1")
    assert isinstance(calls_here(), Follower)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert isinstance(calls_here(), Alone)
    for name in GIVEN:
        monkeypatch.delenv(name)
    assert calls_here().place is None
