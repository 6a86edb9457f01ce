"""The scene code that every mini set shares."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from lisa_backbone.data.digits import SPLITS, digit_labels, digit_split, glyph
from lisa_backbone.data.scenes import (
    Distractor,
    Ground,
    Pose,
    Scene,
    SceneStyle,
    Sprite,
    draw_scene,
    mark_cover,
    paint_ground,
    render,
    scene_rng,
    sprite_alpha,
)
from lisa_backbone.data.textures import TEXTURES, texture

SHAPE = (160, 160)
PLAIN = Ground('gradient', (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0)
WHITE, BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


def scenes(number=25, split='train', style=None):
    return [draw_scene(scene_rng(3, split, index), SHAPE, split, style) for index in range(number)]


def coverage_of(sprite, shape, time=0.0):
    """How much a sprite covers each pixel, by scipy and the inverse of a map written out here."""
    form, pose = glyph(sprite.sample), sprite.pose_at(time)
    turn, scale = math.radians(pose.angle), pose.size / form.extent[1]
    rows, columns = np.indices(shape, dtype=float)
    x, y = columns - pose.x, rows - pose.y
    x, y = math.cos(turn) * x + math.sin(turn) * y, -math.sin(turn) * x + math.cos(turn) * y
    y = y / scale
    x = (x / scale - pose.shear * y) / pose.aspect
    at = [y + form.centre[1], x + form.centre[0]]
    distance = ndimage.map_coordinates(form.distance, at, order=1, mode='constant', cval=-1e3)
    return pose.opacity * np.clip(0.5 + scale * distance + sprite.stroke * pose.size, 0, 1)


def test_train_and_val_share_no_digit():
    train, val = (np.concatenate(digit_split(split)) for split in SPLITS)
    assert not set(train) & set(val)
    assert sorted([*train, *val]) == list(range(1797))
    images = np.stack([glyph(int(sample)).distance for sample in [*train, *val]])
    _, copies = np.unique(images.reshape(len(images), -1), axis=0, return_counts=True)
    assert copies.max() == 1  # nor the same drawing under two indices
    for split in SPLITS:
        for label, samples in enumerate(digit_split(split)):
            assert (digit_labels()[samples] == label).all()
            assert len(samples) > 30
    with pytest.raises(ValueError, match='split'):
        digit_split('test')


@pytest.mark.parametrize('split', SPLITS)
def test_scenes_use_their_own_split_alone(split):
    own = set(np.concatenate(digit_split(split)).tolist())
    used = {sprite.sample for scene in scenes(40, split) for sprite in scene.sprites}
    assert len(used) > 60
    assert used <= own


def test_a_glyph_keeps_the_ink_of_its_sample():
    from sklearn.datasets import load_digits

    grey = load_digits().images / 16
    for sample in range(0, 1797, 97):
        ink = glyph(sample).distance > 0
        cells = ink[24:-24, 24:-24].reshape(8, 12, 8, 12).mean((1, 3))
        assert np.corrcoef(cells.ravel(), grey[sample].ravel())[0, 1] > 0.9
        assert not glyph(sample).distance.flags.writeable


def test_a_glyph_is_a_distance_field():
    # the gradient of a distance is one, away from edges' ridges; that is what makes strokes' edges sharp at any size
    field = glyph(11).distance
    slope = np.hypot(*np.gradient(field))
    near = np.abs(field) < 4
    assert np.median(slope[near]) == pytest.approx(1, abs=0.1)


def test_a_scene_is_a_function_of_seed_split_and_index():
    forth = [draw_scene(scene_rng(0, 'train', index), SHAPE, 'train') for index in range(6)]
    back = [draw_scene(scene_rng(0, 'train', index), SHAPE, 'train') for index in reversed(range(6))]
    assert forth == back[::-1]
    for one, two in zip(forth, back[::-1], strict=True):
        np.testing.assert_array_equal(render(one).image, render(two).image)
    others = [scene_rng(1, 'train', 0), scene_rng(0, 'val', 0), scene_rng(0, 'train', 1)]
    assert len({scene_rng(0, 'train', 0).random(), *(rng.random() for rng in others)}) == 4


def test_a_seed_gives_the_scene_it_always_gave():
    # a change here changes every mini set: raise GENERATOR_VERSION with it
    style = SceneStyle(
        count=(2, 6), size=(28, 72), angle=20, shear=0.15, aspect=(0.85, 1.15), stroke=(0, 0.025), contrast=(0.3, 0.6),
        colourfulness=(0.2, 0.9), texture=(0.04, 0.2), noise=(0.005, 0.02), blur=(0, 0.5), distractors=(0, 4),
        min_visible=0.7, overhang=0.05,
    )  # fmt: skip
    scene = draw_scene(scene_rng(0, 'val', 1), SHAPE, 'val', style)
    drawn = [(s.sample, round(s.pose.x, 2), round(s.pose.y, 2), round(s.pose.size, 2)) for s in scene.sprites]
    assert scene.ground.kind == 'cells'
    assert drawn == [(1647, 56.65, 112.05, 51.8), (1404, 136.73, 122.82, 45.72)]
    rendered = render(scene)
    assert np.bincount(rendered.instances.ravel())[1:].tolist() == pytest.approx([995, 829], abs=3)
    assert rendered.image.mean((0, 1)) == pytest.approx([203.05, 150.76, 191.67], abs=0.3)


def test_geometry_keeps_to_the_style():
    style = SceneStyle(count=(3, 5), size=(30, 50), angle=12, shear=0.1, aspect=(0.9, 1.1), distractors=(1, 2))
    drawn = scenes(60, style=style)
    sprites = [sprite for scene in drawn for sprite in scene.sprites]
    poses = [sprite.pose for sprite in sprites]
    assert {len(scene.sprites) for scene in drawn} == {3, 4, 5}
    assert {len(scene.distractors) for scene in drawn} == {1, 2}
    assert {sprite.label for sprite in sprites} == set(range(10))
    for name, low, high in (('size', 30, 50), ('angle', -12, 12), ('shear', -0.1, 0.1), ('aspect', 0.9, 1.1)):
        values = np.array([getattr(pose, name) for pose in poses])
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)
    assert all(sprite.end is None for sprite in sprites)


def test_the_rendered_ink_has_the_asked_place_and_size():
    for sample in (0, 17, 250, 1500):
        sprite = Sprite(sample, WHITE, Pose(70.0, 90.0, 60.0))
        rows, columns = np.nonzero(render(Scene(SHAPE, PLAIN, (sprite,))).instances)
        assert np.ptp(rows) + 1 == pytest.approx(60, abs=1.5)
        assert (rows.min() + rows.max()) / 2 == pytest.approx(90, abs=0.8)
        assert (columns.min() + columns.max()) / 2 == pytest.approx(70, abs=0.8)


def test_a_positive_angle_turns_clockwise():
    one = int(digit_split('train')[1][0])
    upright, turned = (
        render(Scene(SHAPE, PLAIN, (Sprite(one, WHITE, Pose(80, 80, 90, angle)),))).instances for angle in (0, 20)
    )

    def lean(mask):  # how far the top lies right of the bottom
        return np.nonzero(mask[:70])[1].mean() - np.nonzero(mask[90:])[1].mean()

    assert lean(turned) > lean(upright) + 10


@pytest.mark.parametrize('split', SPLITS)
def test_instances_are_the_visible_pixels(split):
    style = SceneStyle(count=(4, 6), min_visible=0.4)
    overlaps = 0
    for scene in scenes(15, split, style):
        owner = render(scene).instances
        layers = np.stack([coverage_of(sprite, SHAPE) for sprite in scene.sprites])
        clear = (np.abs(layers - 0.5) > 0.02).all(0)  # rounding may decide elsewhere
        nearest = np.zeros(SHAPE, int)
        for number, layer in enumerate(layers, 1):
            nearest = np.where(layer > 0.5, number, nearest)
        np.testing.assert_array_equal(owner[clear], nearest[clear])
        assert clear.mean() > 0.99
        overlaps += int(((layers > 0.5).sum(0) > 1).any())
    assert overlaps > 5


def test_the_image_shows_the_instances():
    # without texture, noise, blur and marks a pixel wholly covered by a digit alone has that digit's colour
    for scene in scenes(10):
        bare = replace(scene, ground=PLAIN, distractors=(), noise=0.0, blur=0.0)
        bare = replace(bare, sprites=tuple(replace(sprite, shade=0.0) for sprite in bare.sprites))
        rendered = render(bare)
        layers = [coverage_of(sprite, SHAPE) for sprite in bare.sprites]
        for number, sprite in enumerate(bare.sprites, 1):
            inside = (rendered.instances == number) & (layers[number - 1] > 0.99)
            for nearer in layers[number:]:
                inside &= nearer < 0.01
            assert np.abs(rendered.image[inside] - 255 * np.array(sprite.colour)).max() < 4
        empty = np.max(layers, axis=0) < 0.01
        assert np.abs(rendered.image[empty].astype(int) - 128).max() <= 3  # a hundredth of the way to white


def test_edges_are_anti_aliased():
    sprite = Sprite(0, WHITE, Pose(80, 80, 60))
    image = render(Scene(SHAPE, Ground('gradient', BLACK, BLACK, 0), (sprite,))).image
    grey = (image > 20) & (image < 235)
    assert 50 < grey[..., 0].sum() < 0.5 * (image[..., 0] > 235).sum()


def test_every_digit_stays_visible():
    for least in (0.4, 0.7):
        style = SceneStyle(count=(5, 6), size=(40, 80), min_visible=least)
        shares = []
        for scene in scenes(15, style=style):
            owner = render(scene).instances
            for number, sprite in enumerate(scene.sprites, 1):
                whole = np.count_nonzero(sprite_alpha(sprite)[0] > 0.5)  # the frame does not cut this one
                shares.append(np.count_nonzero(owner == number) / whole)
        assert least <= min(shares) < least + 0.15


def test_too_much_for_the_canvas_is_refused():
    with pytest.raises(ValueError, match='cannot place'):
        draw_scene(scene_rng(0, 'train', 0), (40, 40), 'train', SceneStyle(count=(9, 9), size=(35, 38)))


def test_digits_stand_out_from_the_ground():
    style = SceneStyle(contrast=(0.3, 0.5), texture=(0.1, 0.1))
    luma = np.array([0.299, 0.587, 0.114])
    gaps, marks = [], []
    for scene in scenes(40, style=style):
        level = (np.array(scene.ground.low) + np.array(scene.ground.high)) @ luma / 2
        gaps += [abs(np.array(sprite.colour) @ luma - level) for sprite in scene.sprites]
        marks += [abs(np.array(mark.colour) @ luma - level) for mark in scene.distractors]
    assert min(gaps) >= 0.3 - 1e-6
    assert max(gaps) <= 0.5 + 1e-6
    assert max(marks) < 0.3  # a mark is fainter than any digit


def test_motion_is_linear_and_the_ground_stands_still():
    start = Pose(40, 60, 30)
    end = Pose(120, 90, 60, angle=20, opacity=0.0)
    scene = Scene(SHAPE, Ground('noise', BLACK, WHITE, 5), (Sprite(3, WHITE, start, end),), noise=0.05, seed=4)
    middle = scene.sprites[0].pose_at(0.5)
    assert middle == Pose(80, 75, 45, angle=10, opacity=0.5)
    assert (scene.sprites[0].pose_at(0.0), scene.sprites[0].pose_at(1.0)) == (start, end)
    centres = []
    for frame, time in enumerate((0.0, 0.2, 0.4)):
        columns = np.nonzero(render(scene, time, frame).instances)[1]
        centres.append((columns.min() + columns.max()) / 2)
    assert np.diff(centres) == pytest.approx([16, 16], abs=1)
    assert not render(scene, 1.0).instances.any()  # it has vanished
    still = replace(scene, noise=0.0)
    np.testing.assert_array_equal(render(still, 0.0).image[:, 140:], render(still, 0.3).image[:, 140:])
    first, again, second = (render(scene, 0.0, frame).image for frame in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_a_digit_that_leaves_the_frame_is_cut():
    sprite = Sprite(3, WHITE, Pose(80, 80, 40), Pose(400, 80, 40))
    whole, cut = (np.count_nonzero(render(Scene(SHAPE, PLAIN, (sprite,)), time).instances) for time in (0, 0.25))
    assert 0.1 * whole < cut < 0.9 * whole
    assert not render(Scene(SHAPE, PLAIN, (sprite,)), 1.0).instances.any()


def test_marks_lie_behind_digits_and_carry_no_label():
    mark = Distractor(((20.0, 80.0), (140.0, 80.0)), 6, (1.0, 0.0, 0.0))
    alone = render(Scene(SHAPE, PLAIN, (), (mark,)))
    assert not alone.instances.any()
    assert (alone.image[80, 30:130] == (255, 0, 0)).all()
    sprite = Sprite(0, WHITE, Pose(80, 80, 60))
    both = render(Scene(SHAPE, PLAIN, (sprite,), (mark,)))
    np.testing.assert_array_equal(both.instances, render(Scene(SHAPE, PLAIN, (sprite,))).instances)
    inside = coverage_of(sprite, SHAPE) > 0.99
    assert (both.image[inside] >= 254).all()


@pytest.mark.parametrize('kind', TEXTURES)
def test_textures(kind):
    one, same, other = (texture(kind, (60, 90), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).mean() > 0.05
    assert (one.min(), one.max()) == pytest.approx((0, 1), abs=1e-6)
    assert one.shape == (60, 90)
    assert one.std() > 0.1
    with pytest.raises(ValueError, match='texture'):
        texture('fur', (60, 90), 0)


def test_marks_in_front_take_their_pixels_from_the_digits():
    mark = Distractor(((20.0, 80.0), (140.0, 80.0)), 6, (1.0, 0.0, 0.0))
    sprite = Sprite(0, WHITE, Pose(80, 80, 60))
    bare, crossed = (render(Scene(SHAPE, PLAIN, (sprite,), overlays=marks)) for marks in ((), (mark,)))
    assert (crossed.image[80, 30:130] == (255, 0, 0)).all()
    over = mark_cover(mark, SHAPE) > 0.5
    np.testing.assert_array_equal(crossed.instances, np.where(over, 0, bare.instances))
    assert (bare.instances[over] > 0).any()


def test_a_ground_painted_once_gives_the_same_frames():
    scene = scenes(1)[0]
    ground = paint_ground(scene)
    kept = ground.copy()
    for frame in range(2):
        np.testing.assert_array_equal(render(scene, 0.0, frame, ground=ground).image, render(scene, 0.0, frame).image)
    np.testing.assert_array_equal(ground, kept)


def test_labels_and_lightness_can_be_asked_for():
    luma = np.array([0.299, 0.587, 0.114])
    for index in range(10):
        scene = draw_scene(scene_rng(0, 'val', index), SHAPE, 'val', labels=(3, 8), lightness=0.6)
        assert {sprite.label for sprite in scene.sprites} <= {3, 8}
        assert (np.array(scene.ground.low) + np.array(scene.ground.high)) @ luma / 2 == pytest.approx(0.6)
