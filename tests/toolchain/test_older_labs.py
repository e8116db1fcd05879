from typing import Any

from toolchain import older_labs


def lab(*, delete: str, type_: str = "command:local:Command") -> dict[str, Any]:
    """A deployment with one command."""
    values = {"create": "docker rm -f -t 0 -v x || true", "delete": delete}
    return {"deployment": {"resources": [{"type": type_, "inputs": dict(values), "outputs": dict(values)}]}}


def test_what_docker_refuses_is_repaired_in_what_deletes() -> None:
    found = older_labs.repaired(lab(delete='as_root docker rm -f -t 0 -v $left\nas_root docker network rm -f a "x"'))
    assert found is not None
    (resource,) = found["deployment"]["resources"]
    for values in (resource["inputs"], resource["outputs"]):
        assert values["delete"] == 'as_root docker rm -f -v $left\nas_root docker network rm a "x"'
        # What made it is not run again, and its text is what the program is compared with.
        assert values["create"] == "docker rm -f -t 0 -v x || true"


def test_what_podman_takes_stays() -> None:
    assert older_labs.repaired(lab(delete="as_root podman rm -f -t 0 -v x")) is None
    assert not older_labs.needs_repair({"resources": [{"inputs": {"delete": "as_root podman rm -f -t 0 -v x"}}]})


def test_program_for_existing_hosts_has_its_new_name_in_what_deletes() -> None:
    enter, leave = (f".venv/bin/python -m {{}} {verb} '{{{{}}}}'" for verb in ("enter", "leave"))
    values = {"create": enter.format("hosts"), "delete": leave.format("hosts")}
    before = {"deployment": {"resources": [{"type": "command:local:Command", "inputs": dict(values)}]}}
    assert older_labs.needs_repair(before)
    found = older_labs.repaired(before)
    assert found is not None
    (resource,) = found["deployment"]["resources"]
    assert resource["inputs"] == values | {"delete": leave.format("components.substrates.existing")}
    assert not older_labs.needs_repair(found), "what made it is never run again"


def test_secrets_and_other_resources_stay() -> None:
    assert older_labs.repaired(lab(delete="docker rm -f -t 0 -v x", type_="command:remote:Command")) is None
    sealed: dict[str, Any] = {"4dabf18193072939515e22adb298388d": "...", "ciphertext": "v1:docker rm -f -t 0 -v "}
    assert older_labs.repaired(lab(delete=sealed)) is None  # type: ignore[arg-type]
    assert older_labs.repaired({}) is None
