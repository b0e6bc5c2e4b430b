"""The kernel as judge of the walker: real rules in a network namespace, real first packets through them.

`lab.py` is a node made of namespaces, `conntrack.py` its second witness, `questions.py` what a capture's node is asked,
`judge.py` whether the kernel's answers and the walker's can be the same, `mutate.py` the seeded edits, `long.py` the long runs.
"""

import sys
from pathlib import Path

# pytest puts the tests' folder on the path; `python -m tests.kernel.long` does not, and both need `captured`.
if (_folder := str(Path(__file__).parent.parent)) not in sys.path:
    sys.path.insert(0, _folder)
