"""Job files: what YAML can do to its reader is refused before it is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from enqueue.errors import UsageError
from enqueue.files import load_job

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "aliases (*name) aren't accepted"),
        ("image: a\ncommands: &c [x]\nargs: *c", "in line 3, column 7: aliases"),
        ("image: a\nimage: b", "'image' is given twice"),
        ("[" * 200_000, "is nested too deeply"),
        ("env: " + "{a: " * 101 + "b" + "}" * 101, "is nested too deeply"),
        ("? [a]\n: b", "isn't YAML or JSON"),
    ],
)
def test_a_dangerous_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_job(str(path))
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
