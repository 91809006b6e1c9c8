"""Prints the figures of the house: lines, longest files and functions, signatures.

python tests/house.py
"""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("soka_tf", "tools", "tests")
LONG_FUNCTION, LONG_SIGNATURE, LONG_FILE = 60, 8, 400


def main() -> None:
    """Prints one block a folder."""
    for folder in FOLDERS:
        files = {
            path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
            for path in (ROOT / folder).rglob("*.py")
        }
        sizes = {name: len(text.splitlines()) for name, text in files.items()}
        longest = sorted(sizes, key=sizes.get, reverse=True)[:3]
        functions = [
            node
            for text in files.values()
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef)
        ]
        long = sum(f.end_lineno - f.lineno >= LONG_FUNCTION for f in functions)
        wide = [len(f.args.args + f.args.kwonlyargs) for f in functions]
        print(
            f"{folder}: {sum(sizes.values())} lines in {len(files)} files, "
            f"{sum(size > LONG_FILE for size in sizes.values())} of more than "
            f"{LONG_FILE}; longest: {', '.join(f'{n} {sizes[n]}' for n in longest)}; "
            f"{long} of {len(functions)} functions of more than {LONG_FUNCTION} lines; "
            f"{sum(w > LONG_SIGNATURE for w in wide)} signatures of more than "
            f"{LONG_SIGNATURE} arguments, the widest {max(wide)}"
        )


if __name__ == "__main__":
    main()
