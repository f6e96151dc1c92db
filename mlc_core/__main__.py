"""The command `mlc`, also as `python -m mlc_core`. Ctrl-C is quiet from the first import on."""

import sys


def main() -> int:
    """Run the command and return its exit code."""
    try:
        from mlc_core import cli  # noqa: PLC0415  (it takes half a second)

        return cli.main()
    except (KeyboardInterrupt, ImportError) as error:
        # onnxruntime turns what interrupts its import into an ImportError.
        if not isinstance(error.__cause__ or error, KeyboardInterrupt):
            raise
        print("mlc: interrupted", file=sys.stderr)
        return 130  # INTERRUPTED of mlc_core.arguments, whose import may be what was interrupted


if __name__ == "__main__":
    sys.exit(main())
