-- Takes the next sequence and marks the tags with it.
-- KEYS[7]  {namespace}:log  stream: records of invalidations, for operators
-- ARGV[4]  maximum number of marks, at least 1
-- ARGV[5]  proxy that invalidates, or ''
-- ARGV[6]  intent that this invalidation completes, or ''
-- ARGV[7]  the tags for the nudge, one per line, or '' to leave them out
-- ARGV[8]  maximum number of intents; beyond it a repetition invalidates everything
-- ARGV[9]  record for the log of invalidations, or ''
-- ARGV[10] about how many entries the log keeps
-- ARGV[11] number of repetitions
-- ARGV[12…] of each repetition: intent, microseconds until it is due, its tags, one per line
-- then     number of tags to soft-invalidate, and of each: tag, microseconds of its grace
-- then     number of watched tags, and these tags
-- then     tags
-- Returns one text of three lines, which clients parse faster than a list:
-- epoch, the sequence taken, the last sequence issued before it, age of the epoch in microseconds, the longest lease of the fleet in
--   ms, and the highest of the floor and the marks that the watched tags had before;
-- all members, each with its record;
-- cause, empty if no epoch had to be started.
local meta, cause = valid_epoch()
local all, foreign = members()
if lost_members(foreign) and cause == '' then
  cause = 'members lost'
  meta = start_epoch(meta.seq, cause)
end
local seq = next_sequence(meta.seq)
local time = now()
local first_soft = 13 + 3 * tonumber(ARGV[11])
local first_watched = first_soft + 2 * tonumber(ARGV[first_soft - 1]) + 1
local first_hard = first_watched + tonumber(ARGV[first_watched - 1])
redis.call('HSET', META, 'seq', text(seq))

local had_soft = redis.call('HEXISTS', META, 'soft_invalidated') == 1
local latest = meta.floor
for i = first_watched, first_hard - 1 do
  for _, member in ipairs({ ARGV[i], SOFT .. ARGV[i] }) do
    latest = math.max(latest, tonumber(redis.call('ZSCORE', MARKS, member) or '0'))
  end
end

for i = first_hard, #ARGV do
  redis.call('ZADD', MARKS, text(seq), ARGV[i])
  -- The hard mark covers what the soft one invalidated.
  if had_soft and redis.call('ZREM', MARKS, SOFT .. ARGV[i]) == 1 then
    redis.call('HDEL', GRACES, ARGV[i])
  end
end

-- A running grace keeps its end; otherwise a series of writes would extend it for ever. A shorter grace moves the end
-- forward; otherwise stale responses would hide its write for longer than it allows. When a grace has ended, its soft mark
-- becomes a hard one, so that a new grace does not revive the entries.
for i = first_soft, first_watched - 2, 2 do
  local tag, ending = ARGV[i], time + tonumber(ARGV[i + 1])
  local before, known = redis.call('ZSCORE', MARKS, SOFT .. tag), end_of_grace(tag)
  if before and known <= time then
    redis.call('ZADD', MARKS, 'GT', before, tag)
  elseif before then
    ending = math.min(ending, known)
  end
  redis.call('HSET', GRACES, tag, text(ending))
  redis.call('ZADD', MARKS, text(seq), SOFT .. tag)
  redis.call('HSET', META, 'soft_invalidated', '1')
end

-- Over the limit the oldest marks are removed, and the floor is raised to invalidate what they invalidated. A call removes at
-- most 1000 more than it added, so that a lowered limit is reached in steps. The sentinel has the highest score and is not
-- counted, so it is never removed.
local excess = redis.call('ZCARD', MARKS) - 1 - tonumber(ARGV[4])
if excess > 0 then
  local removed = redis.call('ZPOPMIN', MARKS, math.min(excess, #ARGV + 1000))
  local highest = tonumber(removed[#removed])
  for i = 1, #removed, 2 do
    local tag = tag_of_soft_mark(removed[i])
    if tag then
      redis.call('HDEL', GRACES, tag)
    end
  end
  if highest > meta.floor then
    redis.call('HSET', META, 'floor', text(highest))
  end
end

local function is_repetition(intent)
  return string.sub(intent, 1, 6) == 'again-'
end

-- A repetition that a later write postponed after it was found due is still pending.
local deadline = ARGV[6] ~= '' and tonumber(redis.call('ZSCORE', INTENTS, ARGV[6]) or '')
if deadline and not (is_repetition(ARGV[6]) and deadline > time) then
  redis.call('ZREM', INTENTS, ARGV[6])
  redis.call('HDEL', INTENT_TAGS, ARGV[6])
end

-- If the same repetition is pending for an earlier write, it is postponed: this invalidation covers what was stored between
-- the two writes.
for i = 12, first_soft - 2, 3 do
  local intent, due, tags = ARGV[i], time + tonumber(ARGV[i + 1]), ARGV[i + 2]
  if redis.call('ZCARD', INTENTS) > tonumber(ARGV[8]) and not redis.call('ZSCORE', INTENTS, intent) then
    due = math.ceil(due / 1000000) * 1000000
    intent, tags = 'again-everything-' .. text(due), '*'
  end
  redis.call('ZADD', INTENTS, text(due), intent)
  redis.call('HSET', INTENT_TAGS, intent, tags)
end

-- For operators alone: whatever stands there or is refused, the invalidation counts.
if ARGV[9] ~= '' then
  redis.pcall('XADD', KEYS[7], 'MAXLEN', '~', ARGV[10], '*', 'record', ARGV[9], 'sequence', text(seq))
end

local nudge = table.concat({ 'n', meta.epoch, text(meta.seq), text(seq), ARGV[5] }, ' ')
redis.call('PUBLISH', CHANNEL, ARGV[7] == '' and nudge or nudge .. '\n' .. ARGV[7])

local numbers = { meta.epoch, text(seq), text(meta.seq), text(epoch_age()), text(longest_lease()), text(latest) }
return table.concat({ table.concat(numbers, ' '), table.concat(all, ' '), cause }, '\n')
