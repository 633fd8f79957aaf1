"""The example in README.md does what it says."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_example_of_the_readme_runs():
    code = re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    assert code, "README.md has no Python example"
    exec(compile(code.group(1), "README.md", "exec"), {})
