"""The robot table as a MuJoCo model: a gripper on a gantry, three blocks, a cabinet with a drawer, a button.

x points right, y away from the camera, z up, in metres; the table's top is z = 0. The hand's frame lies between the
tips of its fingers, so that its three slides read where it is.
"""

from __future__ import annotations

#: Block -> its colour. The order is that of every array with a block axis.
BLOCKS = {"red": "0.85 0.12 0.10 1", "green": "0.10 0.62 0.22 1", "blue": "0.15 0.28 0.90 1"}
#: Half a block's side.
BLOCK = 0.025
#: How far the drawer comes out.
DRAWER_REACH = 0.12
#: How deep the button goes.
BUTTON_DEPTH = 0.014
#: How far each finger is from the middle when the gripper is open.
FINGER_REACH = 0.042

_HANDLE_GAP = 0.055  # from the drawer's front to its bar
_BUTTON_TOP = 0.05 + 0.024
#: Where the middle of the drawer's bar is from the middle of its cabinet, closed.
BAR = (0.0, -0.086 - _HANDLE_GAP, 0.055)
#: Where the top of the button is from the middle of its box, not pressed.
BUTTON_TOP = (0.0, 0.0, _BUTTON_TOP)


def _block(name: str, colour: str) -> str:
    return f"""
    <body name="{name}">
      <freejoint name="{name}"/>
      <geom type="box" size="{BLOCK} {BLOCK} {BLOCK}" rgba="{colour}" mass="0.06" friction="0.9 0.02 0.001" condim="4"/>
    </body>"""


def _finger(name: str, side: int) -> str:
    return f"""
      <body name="{name}" gravcomp="1">
        <joint name="{name}" type="slide" axis="0 {side} 0" range="0 {FINGER_REACH}" damping="8"/>
        <geom type="box" pos="0 {side * 0.006} 0.036" size="0.013 0.006 0.036" mass="0.05" rgba="0.92 0.92 0.92 1"
              friction="2 0.05 0.001" condim="4"/>
      </body>"""


_HAND = f"""
    <body name="hand" gravcomp="1">
      <joint name="hand_x" type="slide" axis="1 0 0" damping="90"/>
      <joint name="hand_y" type="slide" axis="0 1 0" damping="90"/>
      <joint name="hand_z" type="slide" axis="0 0 1" damping="90"/>
      <geom type="box" pos="0 0 0.084" size="0.018 0.058 0.012" mass="0.6" rgba="0.18 0.18 0.20 1"/>
      <geom type="cylinder" pos="0 0 0.146" size="0.018 0.05" mass="0.2" rgba="0.55 0.14 0.14 1" contype="0"
            conaffinity="0"/>{_finger("finger_left", -1)}{_finger("finger_right", 1)}
    </body>"""

_CABINET = f"""
    <body name="cabinet">
      <geom type="box" pos="0 0 0.048" size="0.072 0.08 0.048" rgba="0.62 0.44 0.26 1"/>
      <body name="drawer">
        <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_REACH}" damping="4" frictionloss="0.6"/>
        <geom type="box" pos="0 -0.083 0.046" size="0.066 0.005 0.040" mass="0.1" rgba="0.86 0.74 0.52 1"/>
        <geom type="box" pos="0 -0.004 0.038" size="0.060 0.074 0.030" mass="0.1" rgba="0.34 0.24 0.14 1"/>
        <geom type="capsule" fromto="-0.04 {BAR[1]} {BAR[2]} 0.04 {BAR[1]} {BAR[2]}" size="0.008" mass="0.03"
              rgba="0.95 0.95 0.95 1"/>
        <geom type="capsule" fromto="-0.04 {BAR[1]} {BAR[2]} -0.04 -0.088 {BAR[2]}" size="0.006" mass="0.02"
              rgba="0.95 0.95 0.95 1"/>
        <geom type="capsule" fromto="0.04 {BAR[1]} {BAR[2]} 0.04 -0.088 {BAR[2]}" size="0.006" mass="0.02"
              rgba="0.95 0.95 0.95 1"/>
      </body>
    </body>"""

_BUTTON = f"""
    <body name="button_box">
      <geom type="box" pos="0 0 0.025" size="0.045 0.045 0.025" rgba="0.25 0.25 0.28 1"/>
      <body name="button" pos="0 0 0.05" gravcomp="1">
        <joint name="button" type="slide" axis="0 0 -1" range="0 {BUTTON_DEPTH}" stiffness="90" damping="2"
               armature="0.01"/>
        <geom type="cylinder" pos="0 0 0.009" size="0.026 0.015" mass="0.05" rgba="0.95 0.78 0.10 1"/>
      </body>
    </body>"""

XML = f"""
<mujoco model="table">
  <compiler angle="radian"/>
  <option timestep="0.004" cone="elliptic" impratio="10" integrator="implicitfast"/>
  <visual>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.35 0.35 0.35" specular="0.1 0.1 0.1"/>
    <map znear="0.02" zfar="20"/>
    <quality shadowsize="1024" offsamples="0"/>
  </visual>
  <asset>
    <texture name="wood" type="2d" builtin="checker" rgb1="0.72 0.70 0.66" rgb2="0.67 0.65 0.61" width="64"
             height="64"/>
    <material name="wood" texture="wood" texrepeat="8 8" specular="0.1"/>
    <texture name="sky" type="skybox" builtin="flat" rgb1="0.45 0.50 0.55" width="16" height="16"/>
  </asset>
  <worldbody>
    <light directional="true" pos="0.3 -0.5 1.5" dir="-0.2 0.35 -1" diffuse="0.5 0.5 0.5" specular="0.1 0.1 0.1"/>
    <geom name="table" type="box" pos="0 0.05 -0.02" size="0.5 0.45 0.02" material="wood" friction="0.9 0.02 0.001"/>
    {_HAND}{_CABINET}{_BUTTON}{"".join(_block(name, colour) for name, colour in BLOCKS.items())}
  </worldbody>
  <contact>
    <exclude body1="cabinet" body2="drawer"/>
    <exclude body1="button_box" body2="button"/>
    <exclude body1="finger_left" body2="finger_right"/>
  </contact>
  <actuator>
    <position name="hand_x" joint="hand_x" kp="2400" forcerange="-60 60"/>
    <position name="hand_y" joint="hand_y" kp="2400" forcerange="-60 60"/>
    <position name="hand_z" joint="hand_z" kp="2400" forcerange="-60 60"/>
    <position name="finger_left" joint="finger_left" kp="500" forcerange="-9 9"/>
    <position name="finger_right" joint="finger_right" kp="500" forcerange="-9 9"/>
  </actuator>
</mujoco>
"""
