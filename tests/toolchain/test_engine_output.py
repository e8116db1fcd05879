"""What the engine prints reaches people without the scripts of failed commands, and with all they said."""

from toolchain.engine_output import readable

SCRIPT = "# etcd on controller-0 (8645e5798e65)\\n. /usr/local/lib/hardway/step.sh\\n" + 'echo \\"a\\"\\n' * 40


def test_a_failed_script_is_named_by_its_first_line() -> None:
    lines = [f'error: exit status 1: running "{SCRIPT}":\n', "    etcd.service on controller-0: not seen\n"]
    assert list(readable(lines)) == [
        'error: exit status 1: running "# etcd on controller-0 (8645e5798e65) ...":\n',
        "    etcd.service on controller-0: not seen\n",
    ]


def test_a_short_command_stays_as_it_is() -> None:
    line = 'error: exit status 1: running "podman network rm hardway-dev":\n'
    assert list(readable([line])) == [line]


def test_only_the_word_on_plugins_from_path_is_dropped() -> None:
    lines = ["warning: using pulumi-resource-tls from $PATH at /x/pulumi-resource-tls\n", "warning: other\n"]
    assert list(readable(lines)) == ["warning: other\n"]
