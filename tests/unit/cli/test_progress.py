from flexinfer.cli.progress import Display


def test_without_a_terminal_each_new_step_is_a_line_and_no_line_comes_twice(capsys):
    with Display("m") as display:
        for step, said, share in (
            ("Loading", "Loading (Weights)", None),
            ("Loading", "Loading (Weights)", 0.0),
            ("Loading", "Loading (Weights 12%)", 0.12),
            ("Loading", "Loading (Weights 13%)", 0.13),
            ("Loading", "Loading (Weights 25%)", 0.25),
            ("Ready", "Ready", None),
            ("Loading", "Loading (Weights)", None),
        ):
            display.show(step, said, share)
    assert capsys.readouterr().err.splitlines() == [
        "m: Loading (Weights)",
        "m: Loading (Weights 12%)",
        "m: Loading (Weights 25%)",
        "m: Ready",
        "m: Loading (Weights)",
    ]
