"""The language host's stand-in: programs run as Python programs do, and their errors are told once."""

from engine.project import Project


def test_a_program_runs_as_if_python_had_started_it(project: Project) -> None:
    (project.directory / "neighbour.py").write_text("NAME = 'found beside the program'\n")
    project.program(
        "import pathlib, sys, threading\n"
        "import pulumi, neighbour\n"
        "assert threading.current_thread() is threading.main_thread()\n"
        "assert __name__ == '__main__' and pathlib.Path.cwd() == pathlib.Path(__file__).parent\n"
        "assert not any('standins' in name for name in sys.path), sys.path\n"
        "print('printed by the program')\n"
        "pulumi.export('argv', sys.argv)\n"
        "pulumi.export('path', sys.path[0])\n"
        "pulumi.export('neighbour', neighbour.NAME)\n"
        "pulumi.export('config', pulumi.Config().require_secret('word'))\n"
        "pulumi.export('names', [pulumi.get_project(), pulumi.get_stack(), pulumi.get_organization()])\n"
    )
    project.pulumi("config", "set", "--secret", "word", "hidden", ok=True)

    ran = project.up()

    assert "printed by the program" in ran.output
    assert "hidden" not in ran.output
    assert project.outputs() == {
        "argv": [str(project.directory / "__main__.py")],
        "path": str(project.directory),
        "neighbour": "found beside the program",
        "config": "hidden",
        "names": ["engine-test", "test", "organization"],
    }


def test_an_error_meant_for_the_user_is_shown_once_without_a_traceback(project: Project) -> None:
    project.program("import pulumi\nraise pulumi.RunError('the moon is too near')\n")

    ran = project.preview(ok=False)

    assert ran.output.count("the moon is too near") == 1
    assert "Traceback" not in ran.output


def test_an_unexpected_error_is_shown_once_with_the_programs_own_traceback(project: Project) -> None:
    project.program("def deep():\n    raise KeyError('no such word')\n\ndeep()\n")

    ran = project.preview(ok=False)

    assert ran.output.count("Program failed with an unhandled exception") == 1
    assert ran.output.count("KeyError: 'no such word'") == 1
    assert "line 4, in <module>" in ran.output and "line 2, in deep" in ran.output
    assert "runpy" not in ran.output and "standins/language.py" not in ran.output


def test_an_error_in_an_apply_fails_the_program(project: Project) -> None:
    project.program("import pulumi\npulumi.export('x', pulumi.Output.from_input(1).apply(lambda x: x / 0))\n")

    assert "ZeroDivisionError" in project.preview(ok=False).output


def test_leaving_with_a_text_fails_and_shows_it(project: Project) -> None:
    project.program("import sys\nsys.exit('nothing to do here')\n")

    assert project.preview(ok=False).output.count("nothing to do here") == 1


def test_leaving_with_zero_is_success(project: Project) -> None:
    project.program("import sys\nsys.exit(0)\n")

    project.preview()


def test_a_syntax_error_says_where(project: Project) -> None:
    project.program("import pulumi\ndef broken(:\n")

    ran = project.preview(ok=False)

    assert "SyntaxError" in ran.output and "__main__.py" in ran.output and "line 2" in ran.output


def test_a_project_without_a_program_says_so(project: Project) -> None:
    assert "__main__.py" in project.preview(ok=False).output


def test_about_answers(project: Project) -> None:
    project.program("")

    output = project.pulumi("about", ok=True).output

    assert "python" in output and "pulumi_tls" in output.lower().replace("-", "_")
