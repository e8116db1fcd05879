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


def test_stand_ins_leave_no_empty_heading_and_no_count_of_warnings_that_are_not_shown() -> None:
    lines = [
        " +  pulumi:pulumi:Stack hardway-dev creating (0s) warning: using pulumi-resource-tls from $PATH at /x/tls\n",
        " +  pulumi:pulumi:Stack hardway-dev created (42s) 3 warnings\n",
        "Diagnostics:\n",
        "  pulumi:pulumi:Stack (hardway-dev):\n",
        "    warning: using pulumi-language-python from $PATH at /x/pulumi-language-python\n",
        "    warning: using pulumi-resource-tls from $PATH at /x/pulumi-resource-tls\n",
        "\n",
        "Resources:\n",
    ]
    assert list(readable(lines)) == [" +  pulumi:pulumi:Stack hardway-dev created (42s) \n", "Resources:\n"]


def test_with_stand_ins_errors_and_other_warnings_are_shown() -> None:
    lines = [
        " +  pulumi:pulumi:Stack hardway-dev creating (0s) warning: using pulumi-resource-tls from $PATH at /x/tls\n",
        " +  command:remote:Command dns created (1s) 1 warning\n",
        " +  pulumi:pulumi:Stack hardway-dev **creating failed (1s)** 1 error; 3 warnings; 2 messages\n",
        "Diagnostics:\n",
        "  command:remote:Command (dns):\n",
        "    warning: other\n",
        "\n",
        "  pulumi:pulumi:Stack (hardway-dev):\n",
        "    warning: using pulumi-resource-tls from $PATH at /x/pulumi-resource-tls\n",
        "    error: update failed\n",
        "\n",
        "Resources:\n",
    ]
    assert list(readable(lines)) == [
        lines[1],
        " +  pulumi:pulumi:Stack hardway-dev **creating failed (1s)** 1 error; 2 messages\n",
        *lines[3:8],
        *lines[9:],
    ]
