"""What is checked inside the machine, with the guest's own Python and nothing else.

`python3 -m tests.vm.guest` runs every check in the order of CHECKS and writes a JSON line for each; on the host
test_machine.py makes a test of each. A later check goes on from where the earlier ones left the machine.
"""

from tests.vm.guest import before, confined, faults, identity, installing, removal, serving
from tests.vm.guest.tools import Check

CHECKS: tuple[Check, ...] = (
    *before.CHECKS,
    *installing.CHECKS,
    *identity.CHECKS,
    *confined.CHECKS,
    *serving.CHECKS,
    *faults.CHECKS,
    *removal.CHECKS,
)
