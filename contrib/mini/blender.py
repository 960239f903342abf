"""Pictures of held-out objects by Blender: another renderer, another light, another lens (50 mm).

    python3 truth.py set --heldout 57 --meshes 1
    blender -b -P blender.py -- set out [cutout|plain|shaded|wood|mask] [SAMPLES] [FIRST] [LAST]

For each set/NAME.mesh.ply with its NAME.view.json (truth.py writes both) it makes out/NAME.png, seen from the same direction as
set/NAME.png.  cutout: 518 pixels, transparent around the object.  The others are photographs, JPEG of 640 x 480 without alpha:
the object stands on a floor before a wall, lit by three lamps that cast soft shadows; mask is the object of these photographs
without the floor, a PNG with the true alpha.  Blender 3.4, Cycles on the processor.
"""
import glob
import json
import os
import sys

import bpy
import numpy as np
from mathutils import Matrix, Vector

LAMPS = (((-1.6, -1.9, 2.4), 1.2, 95., (1., .95, .88)),         # key: position, size in cubes, watts, colour
         ((2.3, -1.4, 1.1), 1.8, 36., (.85, .92, 1.)),          # fill
         ((.6, 2.1, 2.2), .9, 60., (1., 1., 1.)))               # from behind


def material(name, roughness):
    m = bpy.data.materials.new(name)
    m.use_nodes = True
    p = m.node_tree.nodes['Principled BSDF']
    p.inputs['Roughness'].default_value = roughness
    return m, m.node_tree.nodes, m.node_tree.links, p.inputs['Base Color']


def read_mesh(path):
    """What mesh.write_ply wrote -> a smooth mesh with the colours of its vertices.  Blender's own importer takes half a minute."""
    head, raw = open(path, 'rb').read().split(b'end_header\n', 1)
    n, faces = (int(line.split()[2]) for line in head.decode().splitlines() if line.startswith('element'))
    v = np.frombuffer(raw, [('p', '<f4', 3), ('c', 'u1', 3)], n)
    f = np.frombuffer(raw, [('n', 'u1'), ('i', '<i4', 3)], faces, v.nbytes)['i']
    me = bpy.data.meshes.new('object')
    me.vertices.add(n), me.loops.add(3 * faces), me.polygons.add(faces)
    me.vertices.foreach_set('co', v['p'].ravel())
    me.loops.foreach_set('vertex_index', f.ravel())
    me.polygons.foreach_set('loop_start', np.arange(0, 3 * faces, 3))
    me.polygons.foreach_set('loop_total', np.full(faces, 3))
    me.polygons.foreach_set('use_smooth', np.ones(faces, bool))
    me.update(calc_edges=True)
    linear = np.ones((n, 4), np.float32)
    linear[:, :3] = (v['c'] / 255.) ** 2.2
    me.color_attributes.new('Col', 'FLOAT_COLOR', 'POINT').data.foreach_set('color', linear.ravel())
    m, nodes, links, base = material('object', .45)
    colour = nodes.new('ShaderNodeVertexColor')
    colour.layer_name = 'Col'
    links.new(colour.outputs['Color'], base)
    me.materials.append(m)
    return me, v['p'].ravel().tolist()


def backdrop(kind):
    m, nodes, links, base = material(kind, .7)
    if kind == 'plain':
        base.default_value = (.62, .62, .6, 1)
        return m
    ramp = nodes.new('ShaderNodeValToRGB')
    if kind == 'wood':
        wave, noise, mix = (nodes.new('ShaderNodeTex' + n) for n in ('Wave', 'Noise', 'Coord'))
        stretch = nodes.new('ShaderNodeMapping')
        stretch.inputs['Scale'].default_value = (1.2, 7, 7)
        links.new(mix.outputs['Object'], stretch.inputs['Vector'])
        links.new(stretch.outputs['Vector'], wave.inputs['Vector'])
        wave.inputs['Distortion'].default_value, wave.inputs['Detail'].default_value = 6, 4
        wave.bands_direction = 'Y'
        links.new(wave.outputs['Fac'], ramp.inputs['Fac'])
        ends = ((.18, .075, .03, 1), (.42, .21, .09, 1))
    else:
        coord, split = nodes.new('ShaderNodeTexCoord'), nodes.new('ShaderNodeSeparateXYZ')
        links.new(coord.outputs['Window'], split.inputs['Vector'])
        links.new(split.outputs['X'], ramp.inputs['Fac'])
        ends = ((.12, .2, .32, 1), (.45, .5, .55, 1))
    for e, c in zip(ramp.color_ramp.elements, ends):
        e.color = c
    links.new(ramp.outputs['Color'], base)
    return m


def plane(where, turn, mat):
    bpy.ops.mesh.primitive_plane_add(size=14, location=where, rotation=turn)
    bpy.context.object.data.materials.append(mat)


def render(path, out, kind, samples):
    """One picture.  The scene is made anew: nothing of the last one stays."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    me, corners = read_mesh(path)
    scene.collection.objects.link(bpy.data.objects.new('object', me))
    view = json.load(open(path.replace('.mesh.ply', '.view.json')))
    right, up, forward = (Vector(view[k]) for k in ('right', 'up', 'forward'))
    turn = Matrix((right, up, -forward)).transposed().to_4x4()
    for at, size, watts, colour in LAMPS:
        lamp = bpy.data.objects.new('lamp', bpy.data.lights.new('lamp', 'AREA'))
        lamp.data.size, lamp.data.energy, lamp.data.color = size, watts, colour
        lamp.location = at
        lamp.rotation_euler = (-Vector(at)).to_track_quat('-Z', 'Y').to_euler()
        scene.collection.objects.link(lamp)
    scene.world = bpy.data.worlds.new('world')
    scene.world.use_nodes = True
    scene.world.node_tree.nodes['Background'].inputs[0].default_value = (.24, .26, .29, 1)
    camera = bpy.data.objects.new('camera', bpy.data.cameras.new('camera'))
    camera.data.lens = 50
    camera.matrix_world = turn
    scene.collection.objects.link(camera)
    scene.camera = camera
    r = scene.render
    r.engine, r.filepath = 'CYCLES', out
    scene.cycles.samples, scene.cycles.max_bounces, scene.cycles.seed = samples, 4, 1
    scene.cycles.use_denoising = False
    scene.view_settings.look = 'Medium High Contrast'           # of Filmic, Blender's own tone curve
    r.resolution_x, r.resolution_y, r.resolution_percentage = (518, 518, 100) if kind == 'cutout' else (640, 480, 100)
    bpy.context.view_layer.update()
    at = camera.camera_fit_coords(bpy.context.evaluated_depsgraph_get(), corners)[0]
    camera.matrix_world = Matrix.Translation(at - forward * (.15 if kind == 'cutout' else 1.1)) @ turn
    if kind in ('cutout', 'mask'):
        r.film_transparent, r.image_settings.file_format, r.image_settings.color_mode = True, 'PNG', 'RGBA'
    else:
        r.image_settings.file_format, r.image_settings.quality = 'JPEG', 90
        mat = backdrop(kind)
        away = Vector((forward.x, forward.y, 0)).normalized()
        plane((0, 0, min(corners[2::3])), (0, 0, 0), mat)
        plane(away * 2.5, (1.5708, 0, away.to_track_quat('Y', 'Z').to_euler().z), backdrop('plain') if kind == 'wood' else mat)
    bpy.ops.render.render(write_still=True)


def main():
    args = sys.argv[sys.argv.index('--') + 1:]
    kind = args[2] if len(args) > 2 else 'cutout'
    samples, first, last = (int(a) if a else d for a, d in zip((args[3:] + ['', '', ''])[:3], (48, 0, 1 << 30)))
    os.makedirs(args[1], exist_ok=True)
    for path in sorted(glob.glob(os.path.join(args[0], '*.mesh.ply')))[first:last]:
        name = os.path.basename(path)[:-len('.mesh.ply')]
        out = os.path.abspath(os.path.join(args[1], name + ('.png' if kind in ('cutout', 'mask') else '.jpg')))
        if not os.path.exists(out):
            render(path, out, kind, samples)


main()
