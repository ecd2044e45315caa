/**
 * The partitions of an ordered group. The topic stays one stream: which partition an entry is in is decided when it is read,
 * by its key, and the consumer that the server has it pending for is the partition. So each partition has a queue of its own
 * on the server, in order, and what is fenced by a lease is who acts as that consumer.
 *
 * A stream per partition would need the same leases, and more: publishing and every group without order would go over all
 * of them, programs that write or read the stream by themselves would have to know how keys are hashed, and another number of
 * partitions would be another place for the messages that are there. This way it is a property of the group alone. The price
 * is that what others are slow with is noted as pending (about a hundred bytes each) as soon as somebody reads past it.
 */

/** Pieces of scripts, with the number of partitions in `partitions`: the partition of an entry, and a partition's consumer. */
export const partitioning = `
local function consumerOf(partition) return 'postrider-' .. partition .. '-of-' .. partitions end
local function partitionOf(id, fields)
  if partitions == 1 then return 0 end
  local key = id
  for i = 1, #fields, 2 do
    if fields[i] == 'ce_partitionkey' then key = fields[i + 1] end
  end
  return tonumber(string.sub(redis.sha1hex(key), 1, 8), 16) % partitions
end`;

/**
 * Arguments of a claim that puts an entry into its partition's queue, to be handed over from there: idle since 1970. One that
 * is out was handed over since.
 */
export const queued = `'TIME', 1`;

/** Whether an entry that has been idle for so many milliseconds is queued. */
export const queuedIdleMs = 1e12;

/** The consumer of a partition, as the scripts have it. */
export function consumerOf(partition: number, partitions: number): string {
  return `postrider-${partition}-of-${partitions}`;
}
