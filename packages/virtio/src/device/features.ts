import {
  VIRTIO_F_ANY_LAYOUT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
  VIRTIO_F_VERSION_1,
  featureBits,
  hasFeature,
} from "../spec/core.ts";
import { featureList, featureName } from "../spec/feature-names.ts";

/** Ring and transport features offered when nothing else is asked for: what QEMU offers by default, and SUSPEND. */
export const DEFAULT_CORE_FEATURES: bigint = featureBits(
  VIRTIO_F_VERSION_1,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_SUSPEND,
);

/** Every ring and transport feature that this implementation has whole; a transport takes away what it cannot carry. */
export const SUPPORTED_CORE_FEATURES: bigint =
  DEFAULT_CORE_FEATURES |
  featureBits(
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_IN_ORDER,
    VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_NOTIF_CONFIG_DATA,
    VIRTIO_F_ANY_LAYOUT,
  );

/** "Feature bits for the specific device type": 0 to 23, 41, 42 and 50 to 127. */
export const DEVICE_TYPE_FEATURES: bigint =
  featureBits(41, 42) | ((1n << 24n) - 1n) | (((1n << 78n) - 1n) << 50n);

/** A feature and what it needs: one of each inner list. Bit numbers. */
export interface FeatureDependency {
  readonly feature: number;
  readonly needs: readonly (readonly number[])[];
}

/** The first feature of the set whose needs are not met, in words; undefined when all are. `id`: virtio device id. */
export function missingDependency(
  id: number,
  features: bigint,
  dependencies: readonly FeatureDependency[],
): string | undefined {
  for (const dependency of dependencies) {
    const any = unmetNeed(features, dependency);
    if (any !== undefined)
      return `${featureName(id, dependency.feature)} needs ${any.map((bit) => featureName(id, bit)).join(" or ")}`;
  }
  return undefined;
}

/** The largest part of the set of which every feature has what it needs. */
export function withoutDependents(features: bigint, dependencies: readonly FeatureDependency[]): bigint {
  let left = features;
  for (;;) {
    const unmet = dependencies.filter((dependency) => unmetNeed(left, dependency) !== undefined);
    if (unmet.length === 0) return left;
    left &= ~featureBits(...unmet.map(({ feature }) => feature));
  }
}

/** One of these is needed by a feature of the set, and none is there. */
function unmetNeed(features: bigint, { feature, needs }: FeatureDependency): readonly number[] | undefined {
  if (!hasFeature(features, feature)) return undefined;
  return needs.find((any) => !any.some((bit) => hasFeature(features, bit)));
}

/** Windows of 32 feature bits that a driver selects; the last bit is 127. */
export const FEATURE_WINDOWS = 4;
const ALL_ONES = 0xffff_ffffn;

/** 32 bits of a set of features, unsigned; windows beyond the last are 0. */
export function featureWindow(features: bigint, window: number): number {
  return window < FEATURE_WINDOWS ? Number((features >> BigInt(32 * window)) & ALL_ONES) : 0;
}

/** The set with 32 bits of it replaced; windows beyond the last change nothing. */
export function withWindow(features: bigint, window: number, value: number): bigint {
  if (window >= FEATURE_WINDOWS) return features;
  const shift = BigInt(32 * window);
  return (features & ~(ALL_ONES << shift)) | (BigInt(value >>> 0) << shift);
}

/** What a device type says about its features. */
interface FeatureOwner {
  readonly id: number;
  readonly name: string;
  readonly features: bigint;
  readonly dependencies?: readonly FeatureDependency[];
}

/** The features of a device with those of its ring and transport. Throws a RangeError when they cannot be. */
export function offer(device: FeatureOwner, core: bigint): bigint {
  const unsupported = core & ~SUPPORTED_CORE_FEATURES;
  if (unsupported !== 0n) throw new RangeError(`${featureList(device.id, unsupported)}: not implemented`);
  const problem = missingDependency(device.id, device.features, device.dependencies ?? []);
  if (problem !== undefined) throw new RangeError(`${device.name}: ${problem}`);
  return device.features | core;
}
