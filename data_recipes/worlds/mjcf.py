"""A room as a MuJoCo model. Imports MuJoCo, so import it only where MUJOCO_GL is set (see render.py).

Floor, walls, ceiling, pictures and the sign's two faces are planes (MuJoCo maps a 2D texture onto a plane whole, and a
ray caster can do the same); coloured objects are primitives, props are meshes. Objects are mocap bodies: they are put
where their motion says, nothing is simulated, so a frame depends on its time alone.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass, field

import mujoco
import numpy as np
from PIL import Image, ImageDraw

from .assets import WALLS, Part, photographs, prop, read_square, texture
from .scene import BACKGROUND, COLOURS, SIGN_FRAME, SIGN_HALF, SIGN_HEIGHT, Room, Sign, Thing

#: Light: everywhere, from the camera, and from the lamp (a spot, cut off at this many degrees).
AMBIENT, HEADLIGHT, LAMP, LAMP_CUTOFF = 0.5, 0.25, 0.5, 85

_CONE_SIDES = 20
_REPEATS_PER_METRE = 0.7
_UP = np.array([0.0, 0.0, 1.0])
_WHITE = (255, 255, 255)


@dataclass
class Surface:
    """How a geom looks to the ray caster: a colour, or where it is flat a texture [h, w, 3] float laid in repeats."""

    colour: np.ndarray
    texture: np.ndarray | None = None
    repeats: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Lamp:
    """How the ray caster lights: brightness of light from everywhere, from the lamp and from the camera.

    ``place`` [3] in metres. ``axis`` [3]: where a spot points, cut off at ``cutoff`` degrees; None shines everywhere.
    A point is in shadow where a ray from the lamp stops before the last ``slack`` (a share) of its way.
    """

    place: np.ndarray
    axis: np.ndarray | None
    ambient: float
    diffuse: float
    headlight: float
    cutoff: float = LAMP_CUTOFF
    slack: float = 0.02


@dataclass
class _Xml:
    """The parts of an MJCF file as they gather, and which instance and surface each geom has."""

    assets: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    instances: list[int] = field(default_factory=list)  # by geom, in the order of the file
    surfaces: list[Surface] = field(default_factory=list)
    group: int = 0  # of the geoms that follow

    def geom(self, instance: int, surface: Surface, attributes: str) -> str:
        name = f"g{len(self.instances)}"
        self.instances.append(instance)
        self.surfaces.append(surface)
        return f'<geom name="{name}" group="{self.group}" contype="0" conaffinity="0" {attributes}/>'

    def image(self, name: str, pixels: np.ndarray) -> str:
        if name + ".png" not in self.files:
            self.files[name + ".png"] = _png(pixels)
            self.assets.append(f'<texture name="{name}" type="2d" file="{name}.png"/>')
        return name


class World:
    """A room's model and state. ``instance`` [ngeom] is each geom's number in ``Scene.instances``.

    Of the scenes' objects and signs only one scene's are there at a time: :attr:`groups` [6] says which groups of
    geoms are to be drawn.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        xml = _Xml()
        _add_shell(xml, room)
        _add_posters(xml, room)
        for number, scene in enumerate(room.scenes):
            xml.group = 1 + number
            _add_sign(xml, scene.sign)
            for k, thing in enumerate(scene.things):
                _add_thing(xml, thing, f"s{number}t{k}", len(BACKGROUND) + k)
        self.model = mujoco.MjModel.from_xml_string(_document(xml, room), xml.files)
        self.data = mujoco.MjData(self.model)
        order = [self.model.geom(f"g{i}").id for i in range(len(xml.instances))]
        self.instance = np.zeros(self.model.ngeom, np.int32)
        self.instance[order] = xml.instances
        self.surfaces = [xml.surfaces[i] for i in np.argsort(order)]
        self.groups = np.zeros(mujoco.mjNGROUP, np.uint8)
        self.set(0, 0.0)

    def set(self, scene: int, time: float) -> None:
        """Furnish the room for a scene, with every object where it is at this time."""
        self.groups[:] = 0
        self.groups[[0, 1 + scene]] = 1
        first = sum(len(before.things) for before in self.room.scenes[:scene])
        for k, thing in enumerate(self.room.scenes[scene].things, first):
            position, yaw = thing.pose(time)
            self.data.mocap_pos[k] = position
            self.data.mocap_quat[k] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        mujoco.mj_forward(self.model, self.data)

    @property
    def lamp(self) -> Lamp:
        """As :func:`_document` says it to OpenGL."""
        x, y = self.room.light
        place, axis = np.array([x, y, self.room.height - 0.1]), np.array([-0.2 * x, -0.2 * y, -1.0])
        bright = self.room.brightness
        return Lamp(place, axis, bright * AMBIENT, bright * LAMP, HEADLIGHT)

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rays [n, 3] from ``origin`` [3]: distances [n], in lengths of the ray, and geoms [n] int32 (-1: none)."""
        count = len(rays)
        geoms, distance = np.full(count, -1, np.int32), np.zeros(count)
        mujoco.mj_multiRay(
            self.model,
            self.data,
            origin,
            np.ascontiguousarray(rays).ravel(),
            self.groups,
            1,
            -1,
            geoms,
            distance,
            count,
            1e3,
        )
        return distance, geoms

    def background(self, rays: np.ndarray) -> np.ndarray:
        """Black: a room is closed."""
        return np.zeros_like(rays)


def _numbers(values: object) -> str:
    return " ".join(f"{x:.6g}" for x in np.asarray(values, float).ravel())


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _add_plane(
    xml: _Xml,
    instance: int,
    name: str,
    pixels: np.ndarray,
    *,
    centre: np.ndarray,
    normal: np.ndarray,
    half: tuple[float, float],
    repeats: tuple[float, float] = (1.0, 1.0),
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> None:
    """A textured rectangle that is seen upright from where its normal points (a floor: with y upwards)."""
    right = np.array([1.0, 0, 0]) if abs(normal[2]) > 0.5 else np.cross(_UP, normal)
    picture = xml.image(name, pixels)
    material = f"m{len(xml.instances)}"
    xml.assets.append(
        f'<material name="{material}" texture="{picture}" texrepeat="{_numbers(repeats)}" specular="0" '
        f'rgba="{_numbers(tint)} 1"/>'
    )
    surface = Surface(np.asarray(tint), pixels.astype(np.float64) / 255, repeats)
    attributes = (
        f'type="plane" size="{_numbers(half)} 0.1" pos="{_numbers(centre)}" '
        f'xyaxes="{_numbers(right)} {_numbers(np.cross(normal, right))}" material="{material}"'
    )
    xml.bodies.append(xml.geom(instance, surface, attributes))


def _repeats(half: tuple[float, float]) -> tuple[float, float]:
    """Whole numbers of tiles, about as large everywhere."""
    return tuple(float(max(1, round(2 * x * _REPEATS_PER_METRE))) for x in half)  # type: ignore[return-value]


def _add_shell(xml: _Xml, room: Room) -> None:
    (x, y), height = room.half, room.height
    floor, walls = BACKGROUND.index("floor"), BACKGROUND.index("walls")
    _add_plane(
        xml,
        floor,
        "floor",
        texture(*room.floor_texture),
        centre=np.zeros(3),
        normal=_UP,
        half=(x, y),
        repeats=_repeats((x, y)),
    )
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
        normal = np.zeros(3)
        normal[axis] = -sign
        centre = np.array([0, 0, height / 2]) - normal * room.half[axis]
        half = (room.half[1 - axis], height / 2)
        pixels = texture(*room.wall_texture)
        _add_plane(
            xml,
            walls,
            "wall",
            pixels,
            centre=centre,
            normal=normal,
            half=half,
            repeats=_repeats(half),
            tint=WALLS[room.walls],
        )
    above = np.array([0, 0, height])
    pixels = texture("miniworld", "ceiling_tile_noborder_1")
    _add_plane(
        xml,
        BACKGROUND.index("ceiling"),
        "ceiling",
        pixels,
        centre=above,
        normal=-_UP,
        half=(x, y),
        repeats=_repeats((x, y)),
    )


@functools.lru_cache(None)
def _photograph_pixels() -> dict[str, np.ndarray]:
    return {photograph.name: read_square(photograph.file, 128) for photograph in photographs()}


def _add_posters(xml: _Xml, room: Room) -> None:
    for poster in room.posters:
        axis, sign = divmod(poster.wall, 2)[0], (1, -1)[poster.wall % 2]
        normal = np.zeros(3)
        normal[axis] = -sign
        centre = np.cross(_UP, normal) * poster.along + _UP * poster.height - normal * (room.half[axis] - 0.012)
        pixels = _photograph_pixels()[poster.photograph]
        name = f"poster{poster.wall}"
        _add_plane(xml, BACKGROUND.index("posters"), name, pixels, centre=centre, normal=normal, half=poster.half)


def sign_pixels(sign: Sign) -> np.ndarray:
    """[128, 256, 3] uint8: the word as large as the board allows, in the frame that every sign has."""
    image = Image.new("RGB", (256, 128), sign.board)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 255, 127), outline=SIGN_FRAME, width=10)
    size = 140
    while True:
        left, top, right, bottom = draw.textbbox((0, 0), sign.word, font_size=size, stroke_width=size // 24)
        if right - left <= 220 and bottom - top <= 94:
            break
        size -= 2
    at = (128 - (left + right) / 2, 64 - (top + bottom) / 2)
    draw.text(at, sign.word, fill=_WHITE, font_size=size, stroke_width=size // 24, stroke_fill=_WHITE)
    return np.asarray(image)


def _add_sign(xml: _Xml, sign: Sign) -> None:
    normal = np.array([np.cos(sign.yaw), np.sin(sign.yaw), 0.0])
    middle = np.array([*sign.position, SIGN_HEIGHT])
    stand, sign_id = BACKGROUND.index("stand"), BACKGROUND.index("sign")
    right = np.cross(_UP, normal)
    axes = f'xyaxes="{_numbers(right)} {_numbers(_UP)}"'
    pixels = sign_pixels(sign)
    for way in (1, -1):
        centre = middle + way * normal * 0.03
        _add_plane(xml, sign_id, f"sign{xml.group}", pixels, centre=centre, normal=way * normal, half=SIGN_HALF)
    colour = np.asarray(sign.board) / 255
    box = (
        f'type="box" size="{_numbers((*SIGN_HALF, 0.02))}" pos="{_numbers(middle)}" {axes} rgba="{_numbers(colour)} 1"'
    )
    xml.bodies.append(xml.geom(sign_id, Surface(colour), box))
    grey = np.full(3, 0.35)
    low = SIGN_HEIGHT - SIGN_HALF[1]
    for way in (1, -1):
        foot = np.array([*sign.position, low / 2]) + way * right * (SIGN_HALF[0] - 0.08)
        leg = f'type="box" size="0.03 {low / 2:.6g} 0.02" pos="{_numbers(foot)}" {axes} rgba="{_numbers(grey)} 1"'
        xml.bodies.append(xml.geom(stand, Surface(grey), leg))


def _add_thing(xml: _Xml, thing: Thing, name: str, instance: int) -> None:
    if thing.colour is None:
        geoms = [_part(xml, instance, part, f"{name}p{i}") for i, part in enumerate(prop(thing.shape).parts)]
    else:
        colour = np.asarray(COLOURS[thing.colour])
        look = f'rgba="{_numbers(colour)} 1"'
        x, _, z = thing.half
        shapes = {
            "box": f'type="box" size="{_numbers(thing.half)}" pos="0 0 {z:.6g}"',
            "ball": f'type="sphere" size="{x:.6g}" pos="0 0 {x:.6g}"',
            "cylinder": f'type="cylinder" size="{x:.6g} {z:.6g}" pos="0 0 {z:.6g}"',
            "cone": f'type="mesh" mesh="{name}"',
        }
        if thing.shape == "cone":
            vertices, faces = cone(x, 2 * z)
            xml.assets.append(_mesh(name, vertices, faces))
        geoms = [xml.geom(instance, Surface(colour), f"{shapes[thing.shape]} {look}")]
    xml.bodies.append(f'<body name="{name}" mocap="true">{"".join(geoms)}</body>')


def cone(radius: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and outward triangles of a cone that stands on z = 0."""
    angles = np.arange(_CONE_SIDES) * 2 * np.pi / _CONE_SIDES
    ring = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.zeros(_CONE_SIDES)], 1)
    vertices = np.concatenate([ring, [[0, 0, height], [0, 0, 0]]])
    one, two = np.arange(_CONE_SIDES), np.roll(np.arange(_CONE_SIDES), -1)
    top, bottom = np.full(_CONE_SIDES, _CONE_SIDES), np.full(_CONE_SIDES, _CONE_SIDES + 1)
    return vertices, np.concatenate([np.stack([one, two, top], 1), np.stack([two, one, bottom], 1)])


def _mesh(name: str, vertices: np.ndarray, faces: np.ndarray, texcoords: np.ndarray | None = None) -> str:
    coordinates = "" if texcoords is None else f' texcoord="{_numbers(texcoords)}"'
    triangles = " ".join(map(str, faces.ravel()))
    return f'<mesh name="{name}" inertia="shell" vertex="{_numbers(vertices)}" face="{triangles}"{coordinates}/>'


def _part(xml: _Xml, instance: int, part: Part, name: str) -> str:
    colour, look = np.asarray(part.rgba[:3]), f'rgba="{_numbers(part.rgba)}"'
    if part.kind != "mesh":
        place = f'pos="{_numbers(part.position)}" quat="{_numbers(part.quaternion)}"'
        return xml.geom(instance, Surface(colour), f'type="{part.kind}" size="{_numbers(part.size)}" {place} {look}')
    assert part.vertices is not None
    assert part.faces is not None
    texcoords = (
        None if part.texcoords is None else part.texcoords * (1, -1) + (0, 1)
    )  # inline, MuJoCo wants v downwards
    xml.assets.append(_mesh(name, part.vertices, part.faces, texcoords))
    if part.image is not None:
        assert part.texcoords is not None
        xml.files[f"{name}.png"] = part.image
        xml.assets.append(f'<texture name="{name}" type="2d" file="{name}.png"/>')
        xml.assets.append(f'<material name="{name}" texture="{name}" specular="0.1"/>')
        colour, look = _mean_colour(part), f'material="{name}"'
    return xml.geom(instance, Surface(colour), f'type="mesh" mesh="{name}" {look}')


def _mean_colour(part: Part) -> np.ndarray:
    """The mean over the mesh's surface of its texture, sampled at the middle of each triangle."""
    assert part.vertices is not None
    assert part.faces is not None
    assert part.texcoords is not None
    assert part.image is not None
    with Image.open(io.BytesIO(part.image)) as image:
        pixels = np.asarray(image.convert("RGB")) / 255
    u, v = (part.texcoords[part.faces].mean(1) % 1.0).T
    rows, columns = ((1 - v) * (len(pixels) - 1)).astype(int), (u * (pixels.shape[1] - 1)).astype(int)
    a, b, c = part.vertices[part.faces].transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return (pixels[rows, columns] * area[:, None]).sum(0) / area.sum()


def _document(xml: _Xml, room: Room) -> str:
    ambient, lamp = AMBIENT * room.brightness, LAMP * room.brightness
    x, y = room.light
    return f"""<mujoco>
<compiler angle="radian"/>
<statistic center="0 0 1" extent="1"/>
<visual>
<global offwidth="1024" offheight="1024"/><map znear="0.05" zfar="20"/><quality shadowsize="1024" offsamples="0"/>
<headlight ambient="{_numbers([ambient] * 3)}" diffuse="{_numbers([HEADLIGHT] * 3)}" specular="0 0 0"/>
</visual>
<asset>{"".join(xml.assets)}</asset>
<worldbody>
<light pos="{x:.6g} {y:.6g} {room.height - 0.1:.6g}" dir="{-0.2 * x:.6g} {-0.2 * y:.6g} -1" castshadow="true"
 diffuse="{_numbers([lamp] * 3)}" specular="0 0 0" ambient="0 0 0" cutoff="{LAMP_CUTOFF}" exponent="1"/>
{"".join(xml.bodies)}
</worldbody>
</mujoco>"""
