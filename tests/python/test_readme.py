"""The examples in README.md do what they say."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    assert len(examples) >= 2, "README.md lacks Python examples"
    names = {}
    for code in examples:  # the later ones use the names of the first
        exec(compile(code, "README.md", "exec"), names)
