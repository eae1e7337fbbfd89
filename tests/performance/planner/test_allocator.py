"""The simulated allocator against cases worked by hand, after c10/cuda/CUDACachingAllocator.cpp."""

from yolo_lightning.performance.planner.allocator import MIB, CachingAllocator


def test_small_tensors_share_a_segment_of_2_mib() -> None:
    allocator = CachingAllocator()
    for _ in range(4):
        allocator.allocate(MIB // 2)
    assert (allocator.allocated, allocator.reserved) == (2 * MIB, 2 * MIB)
    allocator.allocate(1)
    assert (allocator.allocated, allocator.reserved) == (2 * MIB + 512, 4 * MIB)


def test_middle_tensors_share_20_mib_and_large_ones_have_their_own() -> None:
    allocator = CachingAllocator()
    allocator.allocate(9 * MIB)
    allocator.allocate(9 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator.allocate(11 * MIB + 1)
    assert allocator.reserved == 20 * MIB + 12 * MIB


def test_a_freed_block_joins_its_neighbours_and_is_taken_again() -> None:
    allocator = CachingAllocator()
    first, second, third = (allocator.allocate(6 * MIB) for _ in range(3))
    allocator.free(first)
    allocator.free(third)
    allocator.allocate(8 * MIB)  # the end of the segment: 6 + 2 MiB
    assert allocator.reserved == 20 * MIB
    allocator.free(second)
    allocator.allocate(12 * MIB)  # first and second together
    assert allocator.reserved == 20 * MIB
    assert allocator.allocated == 20 * MIB


def test_the_smallest_block_that_fits_is_taken() -> None:
    allocator = CachingAllocator()
    large, small = allocator.allocate(40 * MIB), allocator.allocate(12 * MIB)
    allocator.free(large)
    allocator.free(small)
    allocator.allocate(11 * MIB)
    allocator.allocate(40 * MIB)
    assert allocator.reserved == 52 * MIB
