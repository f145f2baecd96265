"""Materials, photographs and meshes read from packages that the user has installed. Nothing is copied into this one.

Textures come from miniworld and Meta-World, photographs from scikit-image and scikit-learn, reproductions of paintings
from miniworld, meshes from miniworld (with UV textures) and Meta-World (plain colours). Packages are found without
being imported: miniworld's own code wants a window system. What is listed here and cannot be found is an error.
"""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

#: Words for floors, and the textures (package, name) that each may be laid with.
FLOORS: dict[str, tuple[tuple[str, str], ...]] = {
    "wooden": (
        ("miniworld", "wood_1"),
        ("miniworld", "wood_planks_1"),
        ("metaworld", "wood1"),
        ("metaworld", "wood_light"),
    ),
    "brick": (("miniworld", "brick_wall_1"), ("metaworld", "brick1")),
    "grass": (("miniworld", "grass_1"), ("miniworld", "grass_2")),
    "checkered": (("miniworld", "floor_tiles_bw_1"),),
    "stone": (("miniworld", "rock_1"), ("miniworld", "asphalt_1"), ("miniworld", "cinder_blocks_1")),
    "metal": (("miniworld", "metal_grill_1"), ("miniworld", "metal_grill_2")),
}

#: Words for wall colours, and the tint that each lays over a light texture.
WALLS: dict[str, tuple[float, float, float]] = {
    "white": (0.97, 0.97, 0.95),
    "yellow": (0.95, 0.85, 0.35),
    "green": (0.45, 0.75, 0.45),
    "blue": (0.40, 0.58, 0.92),
    "pink": (0.96, 0.58, 0.72),
    "brown": (0.55, 0.38, 0.24),
}
WALL_TEXTURES = (
    ("miniworld", "stucco_1"),
    ("miniworld", "drywall_1"),
    ("miniworld", "ceiling_tiles_1"),
    ("miniworld", "door_garage_white"),
)

#: Meshes of miniworld: name -> (file, longest side in metres).
MINIWORLD_PROPS = {
    "rubber duck": ("duckie", 0.85),
    "barrel": ("barrel", 0.95),
    "traffic cone": ("cone", 0.95),
    "office chair": ("office_chair", 1.05),
    "office desk": ("office_desk", 1.00),
    "medkit": ("medkit", 0.80),
    "road barrier": ("barrier", 1.20),
    "toy building": ("building", 0.90),
}

#: Objects of Meta-World: name -> (file of dependencies, file of the body, longest side in metres).
METAWORLD_PROPS = {
    "mug": ("coffeemachine_dependencies", "mug", 0.75),
    "hammer": ("hammer_dependencies", "hammer", 1.10),
    "laptop": ("laptop_dependencies", "laptop", 0.85),
    "soccer ball": ("soccer_dependencies", "soccer_ball", 0.75),
    "basketball": ("basketball_dependencies", "basketball", 0.75),
    "coffee machine": ("coffeemachine_dependencies", "coffeemachine", 0.90),
}

PROPS = (*MINIWORLD_PROPS, *METAWORLD_PROPS)

#: Photographs in scikit-image's wheel. The stereo pair of the motorcycle is not among them: it is held out.
SKIMAGE_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "retina.jpg",
    "rocket.jpg",
)
SKLEARN_PHOTOGRAPHS = ("china.jpg", "flower.jpg")

_TEXTURE_SIZE = 128


class MissingPackage(ValueError):
    """A package that the demo reads from is not installed, or lacks a file that it should hold."""


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingPackage(f"the demo's worlds need the package {name}: pip install 'interlace[demo]'")
    return Path(spec.origin).parent


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MissingPackage(f"{path}: missing; reinstall its package: pip install --force-reinstall 'interlace[demo]'")
    return path


@functools.lru_cache(None)
def texture(package: str, name: str) -> np.ndarray:
    """[128, 128, 3] uint8 of one of miniworld's or Meta-World's textures."""
    folder = "textures" if package == "miniworld" else "assets/textures"
    return read_square(_existing(package_folder(package) / folder / f"{name}.png"), _TEXTURE_SIZE)


def read_square(file: Path, size: int) -> np.ndarray:
    """[size, size, 3] uint8 of an image file, squeezed into a square."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class Photograph:
    """A real picture inside a package. ``digest`` (SHA-256 of the file) decides its side of the split."""

    name: str
    file: Path
    digest: str

    @property
    def held_out(self) -> bool:
        """About one in four, decided by the content alone."""
        return int(self.digest, 16) % 4 == 0


@functools.lru_cache(1)
def photographs() -> tuple[Photograph, ...]:
    """Every photograph, and every painting of miniworld's, in the order of their names."""
    skimage, sklearn = package_folder("skimage") / "data", package_folder("sklearn") / "datasets" / "images"
    files = {name: skimage / name for name in SKIMAGE_PHOTOGRAPHS} | {
        name: sklearn / name for name in SKLEARN_PHOTOGRAPHS
    }
    paintings = sorted((package_folder("miniworld") / "textures" / "portraits").glob("*.png"))
    files |= {f"painting-{file.name}": file for file in paintings}
    found = []
    for name in sorted(files):
        digest = hashlib.sha256(_existing(files[name]).read_bytes()).hexdigest()
        found.append(Photograph(name.rsplit(".", 1)[0], files[name], digest))
    return tuple(found)


@dataclass(frozen=True)
class Part:
    """One piece of a prop, in the prop's frame: z up, the bounding box centred on x = y = 0 and standing on z = 0.

    A mesh has ``vertices`` [n, 3], ``faces`` [m, 3] and, if textured, ``texcoords`` [n, 2] with ``image`` (PNG
    bytes). A primitive has MuJoCo's ``kind`` and ``size`` instead, at ``position`` turned by ``quaternion`` (wxyz).
    """

    rgba: tuple[float, float, float, float]
    kind: str = "mesh"
    vertices: np.ndarray | None = None
    faces: np.ndarray | None = None
    texcoords: np.ndarray | None = None
    image: bytes | None = None
    size: tuple[float, ...] = ()
    position: tuple[float, ...] = (0.0, 0.0, 0.0)
    quaternion: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Prop:
    """A named mesh object. ``half``: half extents in metres."""

    name: str
    parts: tuple[Part, ...]
    half: tuple[float, float, float]


@functools.lru_cache(None)
def prop(name: str) -> Prop:
    """The parts of one of :data:`PROPS`. Meta-World's are compiled by MuJoCo, so this imports it."""
    return _miniworld_prop(name) if name in MINIWORLD_PROPS else _metaworld_prop(name)


def _miniworld_prop(name: str) -> Prop:
    file, longest = MINIWORLD_PROPS[name]
    folder = package_folder("miniworld") / "meshes"
    vertices, texcoords, faces = _read_obj(_existing(folder / f"{file}.obj"))
    vertices = vertices[:, [0, 2, 1]] * np.array([1.0, -1.0, 1.0])  # the files are y-up
    shift, scale, half = _stand(vertices, longest)
    stream = io.BytesIO()
    Image.fromarray(read_square(_existing(folder / f"{file}.png"), 2 * _TEXTURE_SIZE)).save(stream, "PNG")
    part = Part(
        (1.0, 1.0, 1.0, 1.0),
        vertices=(vertices + shift) * scale,
        faces=faces,
        texcoords=texcoords,
        image=stream.getvalue(),
    )
    return Prop(name, (part,), half)


def _stand(vertices: np.ndarray, longest: float) -> tuple[np.ndarray, float, tuple[float, float, float]]:
    """What to add so that vertices stand on the origin, then to multiply with for this longest side; half extents."""
    low, high = vertices.min(0), vertices.max(0)
    scale = longest / float((high - low).max())
    x, y, z = (high - low) / 2 * scale
    shift = -np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    return shift, scale, (float(x), float(y), float(z))


def _read_obj(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [n, 3], texture coordinates [n, 2] (v up), triangles [m, 3]; a vertex is a (position, texcoord) pair."""
    positions: list[list[float]] = []
    coordinates: list[list[float]] = []
    corners: dict[tuple[int, int], int] = {}
    faces: list[list[int]] = []
    for line in file.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            positions.append([float(x) for x in rest.split()[:3]])
        elif kind == "vt":
            coordinates.append([float(x) for x in rest.split()[:2]])
        elif kind == "f":
            pairs = [tuple(int(x) - 1 for x in corner.split("/")[:2]) for corner in rest.split()]
            ring = [corners.setdefault((pair[0], pair[1]), len(corners)) for pair in pairs]
            faces += [[ring[0], ring[i], ring[i + 1]] for i in range(1, len(ring) - 1)]
    vertices = np.array([positions[position] for position, _ in corners])
    return vertices, np.array([coordinates[coordinate] for _, coordinate in corners]), np.array(faces)


def _metaworld_prop(name: str) -> Prop:
    import mujoco

    dependencies, body, longest = METAWORLD_PROPS[name]
    root = package_folder("metaworld") / "assets" / "objects"
    files = [_existing(root / "assets" / f"{file}.xml") for file in (dependencies, body)]
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><compiler meshdir="{root}" texturedir="{root}"/><include file="{files[0]}"/>'
        f'<worldbody><body><include file="{files[1]}"/></body></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    pieces = [(g, *_surface(mujoco, model, data, g)) for g in range(model.ngeom) if model.geom_group[g] <= 2]
    if not pieces:
        raise MissingPackage(f"{files[1]}: holds no visible part; is this metaworld 3.1.1?")
    shift, scale, half = _stand(np.concatenate([vertices for _, vertices, _ in pieces]), longest)
    return Prop(name, tuple(_metaworld_part(mujoco, model, data, piece, shift, scale) for piece in pieces), half)


def _surface(mujoco, model, data, geom: int) -> tuple[np.ndarray, np.ndarray | None]:  # type: ignore[no-untyped-def]
    """Points that bound a geom [n, 3] (a mesh's vertices, a primitive's corners), and a mesh's triangles."""
    rotation, origin = data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom]
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        first, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        return model.mesh_vert[start : start + count] @ rotation.T + origin, model.mesh_face[first : first + faces]
    centre, reach = model.geom_aabb[geom][:3], model.geom_aabb[geom][3:]
    corners = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T * reach + centre
    return corners @ rotation.T + origin, None


def _metaworld_part(mujoco, model, data, piece, shift: np.ndarray, scale: float) -> Part:  # type: ignore[no-untyped-def]
    geom, vertices, faces = piece
    material = model.geom_matid[geom]
    rgba = tuple(float(x) for x in (model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]))
    if faces is not None:
        return Part(rgba, vertices=(vertices + shift) * scale, faces=np.array(faces))  # type: ignore[arg-type]
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, data.geom_xmat[geom])
    kind = mujoco.mjtGeom(model.geom_type[geom]).name.removeprefix("mjGEOM_").lower()
    return Part(
        rgba,  # type: ignore[arg-type]
        kind=kind,
        size=tuple(float(x) * scale for x in model.geom_size[geom]),
        position=tuple(float(x) for x in (data.geom_xpos[geom] + shift) * scale),
        quaternion=tuple(float(x) for x in quaternion),
    )
