"""Point clouds in PLY and PCD files, every form by hand."""

import struct

import numpy as np

XYZ = np.array([[0.5, -1.0, 2.0], [3.25, 4.0, 5.0], [1e6, 0.125, -7.0]])
NORMALS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float64)
COLORS = np.array([[255, 0, 51], [0, 255, 0], [102, 0, 255]])
PLY_HEADER = """ply
format {form} 1.0
comment made by hand
element camera 1
property list uchar short rows
element vertex 3
property uchar red
property double x
property double y
property double z
property uchar green
property uchar blue
property float nx
property float ny
property float nz
element face 1
property list uchar int vertex_indices
end_header
"""


def ply(form: str) -> bytes:
    """A list before the vertices, coordinates amid the columns, a face after them."""
    header = PLY_HEADER.format(form=form).encode()
    if form == "ascii":
        lines = ["2 300 -1"]
        for (x, y, z), (r, g, b), normal in zip(XYZ, COLORS, NORMALS.astype(int), strict=True):
            lines.append(f"{r} {x} {y} {z} {g} {b} {' '.join(map(str, normal))}")
        return header + "\n".join([*lines, "3 0 1 2", ""]).encode()
    order = "<" if form == "binary_little_endian" else ">"
    body = struct.pack(order + "Bhh", 2, 300, -1)
    for (x, y, z), (r, g, b), normal in zip(XYZ, COLORS, NORMALS, strict=True):
        body += struct.pack(order + "B3dBB3f", r, x, y, z, g, b, *normal)
    return header + body + struct.pack(order + "B3i", 3, 0, 1, 2)


def pcd(form: str, *, missing: bool = True) -> bytes:
    """Points in double precision with packed colours, padding and normals; a point without coordinates between them."""
    points = np.insert(XYZ, 1, np.nan, axis=0) if missing else XYZ
    rows = []
    for number, point in enumerate(points):
        r, g, b = (0, 0, 0) if missing and number == 1 else COLORS[number - (missing and number > 1)].tolist()
        normal = (0.0, 0.0, 1.0)
        rows.append((*point.tolist(), r << 16 | g << 8 | b, *normal))
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z rgb _ normal_x normal_y normal_z\n"
        "SIZE 8 8 8 4 1 4 4 4\nTYPE F F F U U F F F\nCOUNT 1 1 1 1 4 1 1 1\n"
        f"WIDTH {len(rows)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\nDATA {form}\n"
    ).encode()
    if form == "ascii":
        return header + "\n".join(f"{x} {y} {z} {c} 0 0 0 0 {u} {v} {w}" for x, y, z, c, u, v, w in rows).encode()
    if form == "binary":
        return header + b"".join(struct.pack("<3dI4x3f", *row) for row in rows)
    columns = list(zip(*rows, strict=True))
    body = b"".join(struct.pack(f"<{len(rows)}{letter}", *columns[n]) for n, letter in enumerate("dddI"))
    body += bytes(4 * len(rows)) + b"".join(struct.pack(f"<{len(rows)}f", *columns[n]) for n in (4, 5, 6))
    packed = literal_lzf(body)
    return header + struct.pack("<II", len(packed), len(body)) + packed


def literal_lzf(data: bytes) -> bytes:
    """LZF without any compression."""
    return b"".join(bytes([len(part) - 1]) + part for part in (data[at : at + 32] for at in range(0, len(data), 32)))
