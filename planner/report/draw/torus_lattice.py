"""A small slice of three axes in oblique projection: every chip and every link is seen.

Planes lie above each other; the shear is such that no link runs behind a chip that it does
not join.
"""

from __future__ import annotations

from planner.report.draw.canvas import Point, Sheet
from planner.report.draw.style import SMALL
from planner.report.draw.torus_map import Place, SliceMap
from planner.report.draw.torus_rows import STUB, View, Where

SHEAR, RISE = 20.0, 21.0
CHIP = 15.0
LARGEST = (8, 4, 8)
SIDE, FOOT = 66.0, 36.0
AIR = 34.0


def is_lattice(slice_: SliceMap) -> bool:
    """Whether a slice is small enough for this view."""
    small = all(length <= most for length, most in zip(slice_.shape, LARGEST, strict=True))
    return small and slice_.shape[1] > 1 and slice_.shape[2] > 1


def _steps(slice_: SliceMap) -> tuple[Point, Point, Point]:
    rows = slice_.shape[1]
    return (max(3, rows) * SHEAR, 0.0), (SHEAR, -RISE), (0.0, -(rows * RISE + AIR))


def lattice_size(slice_: SliceMap) -> tuple[float, float]:
    """Width and height with labels and stubs."""
    x, y, z = slice_.shape
    along, back, up = _steps(slice_)
    width = (x - 1) * along[0] + (y - 1) * back[0] + 2 * SIDE
    height = (y - 1) * RISE - (z - 1) * up[1] + CHIP + 2 * STUB + FOOT
    return width, height


def draw_lattice(sheet: Sheet, slice_: SliceMap, left: float, top: float) -> None:
    """Draw a slice with its upper left corner at ``(left, top)``."""
    x_len, y_len, z_len = slice_.shape
    steps = _steps(slice_)
    origin = (
        left + SIDE,
        top + STUB + CHIP / 2 + (y_len - 1) * RISE - (z_len - 1) * steps[2][1],
    )

    def where(place: Place) -> Point:
        return (
            origin[0] + sum(at * step[0] for at, step in zip(place, steps, strict=True)),
            origin[1] + sum(at * step[1] for at, step in zip(place, steps, strict=True)),
        )

    for z in range(z_len):
        _draw_plane(sheet, slice_, where, z)
        corner = where((0, 0, z))
        sheet.text((corner[0] - 26, corner[1] + 4), f"z = {z}", SMALL, "muted", "end")
    view = View(slice=slice_, where=where, chip_size=CHIP)
    for axis, step in enumerate(steps):
        view.draw_axis(sheet, axis, step)
    view.draw_chips(sheet)
    for x in range(x_len):
        at = where((x, 0, 0))
        words = f"x = {x}" if x == 0 else str(x)
        sheet.text((at[0], at[1] + 32), words, SMALL, "muted", "middle")
    for y in range(y_len):
        at = where((x_len - 1, y, 0))
        words = f"y = {y}" if y == 0 else str(y)
        sheet.text((at[0] + 24, at[1] + 4), words, SMALL, "muted")


def _draw_plane(sheet: Sheet, slice_: SliceMap, where: Where, z: int) -> None:
    """The plane under the chips of one ``z``."""
    x_len, y_len, _ = slice_.shape
    pad = CHIP / 2 + 4
    lean = pad * SHEAR / RISE
    corners = []
    for x, y, side in (
        (0, 0, -1),
        (x_len - 1, 0, 1),
        (x_len - 1, y_len - 1, 1),
        (0, y_len - 1, -1),
    ):
        at = where((x, y, z))
        depth = -1 if y == 0 else 1
        corners.append((at[0] + side * pad + depth * lean, at[1] - depth * pad))
    sheet.polygon(corners, "sheet")
