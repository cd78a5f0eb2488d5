"""What vLLM's own parser says of command lines: JSON lists of words come in, one a line, `null` or the error goes out.

Run by the Python of the environment that environment.py makes. No model is opened.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys


def main() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    if sys.argv[1:] == ["--options"]:
        print(json.dumps(sorted({name for action in parser._actions for name in action.option_strings})))
        return
    for line in sys.stdin:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                validate_parsed_serve_args(parser.parse_args(json.loads(line)))
        except SystemExit:
            found = said.getvalue().strip().splitlines()
            print(json.dumps(found[-1] if found else "refused"))
        except (TypeError, ValueError) as error:
            print(json.dumps(str(error)))
        else:
            print("null")


if __name__ == "__main__":
    main()
