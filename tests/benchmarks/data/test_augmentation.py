"""Windows, resized crops and colours of whole batches, against sample-by-sample writing-down of what they are."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from benchmarks.data.augment import Augmentation, centre, crop_and_flip, jittered, resized
from benchmarks.settings.base import checked
from benchmarks.settings.datasets import Augment
from methods.errors import BadInput
from methods.seeds import stream


def images(count=5, height=9, width=11, channels=3):
    return torch.randint(0, 256, (count, channels, height, width), generator=stream(0, "images"), dtype=torch.uint8)


@pytest.mark.parametrize(("padding", "window"), [(0, (6, 7)), (2, (9, 11)), (1, (5, 4))])
def test_windows_are_cut_where_they_were_drawn_and_mirrored(padding, window):
    raw, draw = images(), stream(1, "draws")
    augmentation = Augmentation(crop=padding, flip=True)
    draws = augmentation.draw(5, (9, 11), window, draw)
    found = augmentation.apply(raw, draws, window)
    padded = functional.pad(raw, (padding,) * 4)
    for place, image in enumerate(padded):
        top, left = int(draws.top[place]), int(draws.left[place])
        part = image[:, top : top + window[0], left : left + window[1]]
        assert part.shape[1:] == window, "the window leads out of the image"
        assert torch.equal(found[place], part.flip(2) if draws.flip[place] else part)


def test_every_place_of_a_window_is_drawn_and_no_other():
    draws = Augmentation(crop=0).draw(4000, (10, 12), (8, 8), stream(0, "places"))
    assert sorted(set(draws.top.tolist())) == [0, 1, 2] and sorted(set(draws.left.tolist())) == [0, 1, 2, 3, 4]
    assert 0.45 < draws.flip.float().mean() < 0.55


def test_draws_of_square_images_are_those_that_records_were_made_with():
    """One call for rows and columns, then the flips: other calls would give other numbers for the same seed."""
    draw = stream(3, "old")
    top, left = torch.randint(0, 9, (2, 6), generator=draw)
    flip = torch.rand(6, generator=draw) < 0.5
    draws = Augmentation(4, True).draw(6, (32, 32), (32, 32), stream(3, "old"))
    assert torch.equal(draws.top, top) and torch.equal(draws.left, left) and torch.equal(draws.flip, flip)
    raw = images(6, 8, 8)
    assert torch.equal(Augmentation(4)(raw, stream(3, "old")), crop_and_flip(raw, top, left, flip, 4))


def test_the_middle_is_cut_out_and_nothing_is_copied_where_it_is_all():
    raw = images()
    assert torch.equal(centre(raw, (5, 3)), raw[:, :, 2:7, 4:7])
    assert centre(raw, (9, 11)) is raw


def test_a_box_of_the_whole_image_at_its_own_size_changes_nothing():
    raw = images()
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(5, 1)
    assert torch.equal(resized(raw, whole, (9, 11)), raw)


def test_a_box_at_its_own_size_is_cut_out():
    raw = images(2, 10, 20)
    box = torch.tensor([[0.2, 0.1, 0.5, 0.6], [0.0, 0.4, 0.5, 0.6]])
    found = resized(raw, box, (5, 12))
    assert torch.equal(found[0], raw[0, :, 2:7, 2:14]) and torch.equal(found[1], raw[1, :, 0:5, 8:20])


def test_a_scaled_box_is_interpolated_between_the_centres_of_pixels():
    """One axis by hand: four pixels to eight, as torch's own interpolation has it."""
    raw = images(3, 4, 4)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(3, 1)
    theirs = functional.interpolate(raw.float(), (8, 8), mode="bilinear", align_corners=False).round()
    assert (resized(raw, whole, (8, 8)).float() - theirs).abs().max() <= 1  # a half may be rounded either way


@given(
    low=st.floats(0.05, 1.0), high=st.floats(0.05, 1.0), height=st.integers(4, 60), width=st.integers(4, 60),
    seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_boxes_lie_within_the_image_and_have_the_shares_that_were_asked_for(low, high, height, width, seed):
    low, high = min(low, high), max(low, high)
    draws = Augmentation(0, resized_crop=(low, high)).draw(50, (height, width), (4, 4), stream(seed, "boxes"))
    top, left, tall, wide = draws.box.unbind(1)
    assert (draws.box >= 0).all() and (top + tall <= 1 + 1e-9).all() and (left + wide <= 1 + 1e-9).all()
    share, ratio = tall * wide, wide * width / (tall * height)
    clipped = (tall >= 1) | (wide >= 1)
    assert (share <= high + 1e-9).all() and (share[~clipped] >= low - 1e-9).all()
    assert (ratio[~clipped].log().abs() <= math.log(4 / 3) + 1e-9).all()


def test_factors_of_one_change_no_colour():
    raw = images()
    assert torch.equal(jittered(raw, torch.ones(5, 3)), raw)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_as_their_factors_say(channels):
    raw = images(1, channels=channels)
    assert torch.equal(jittered(raw, torch.tensor([[0.5, 1, 1]])), (raw.float() * 0.5).round().to(torch.uint8))
    grey = jittered(raw, torch.tensor([[1.0, 1.0, 0.0]]))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1) if channels == 3 else torch.ones(1, 1, 1, 1)
    luminance = (raw.float() * weights).sum(1, keepdim=True)
    assert (grey.float() - luminance).abs().max() <= 0.51
    flat = jittered(raw, torch.tensor([[1.0, 0.0, 1.0]]))
    assert flat.float().std() < 1e-6 and abs(float(flat.float().mean() - luminance.mean())) <= 0.51


def test_jitter_draws_within_its_range_and_only_when_it_is_asked_for():
    draws = Augmentation(0, jitter=0.4).draw(2000, (8, 8), (8, 8), stream(0, "jitter"))
    assert draws.colours.min() >= 0.6 and draws.colours.max() <= 1.4 and abs(float(draws.colours.mean()) - 1) < 0.02
    assert Augmentation(0).draw(3, (8, 8), (8, 8), stream(0, "none")).colours is None


@pytest.mark.parametrize(
    "section", [{"resized_crop": [1.0, 0.1]}, {"resized_crop": [0.0, 1.0]}, {"resized_crop": [0.5]}, {"jitter": 1.0}]
)
def test_settings_that_mean_nothing_are_refused(section):
    with pytest.raises(BadInput):
        checked(Augment, section, "dataset.augment")
