-- Takes the next sequence and marks the tags with it.
-- ARGV[4]  marks to keep at most, at least 1
-- ARGV[5]  proxy that invalidates, or ''
-- ARGV[6]  intent that is carried out, or ''
-- ARGV[7]  the tags in lines, for the nudge, or '' to leave them out
-- ARGV[8]  intents to keep at most; beyond them a repetition is one of everything
-- ARGV[9]  number of repetitions
-- ARGV[10…] of each repetition: intent, microseconds until it is due, its tags in lines
-- then     tags
-- Returns epoch, the sequence taken, cause ('' if no epoch had to be started), the last sequence issued before it, age
-- of the epoch in microseconds, all members, the longest lease of the fleet in ms.
local meta, cause = valid_epoch()
local seq = next_sequence(meta.seq)
local repetitions = tonumber(ARGV[9])
redis.call('HSET', META, 'seq', text(seq))
for i = 10 + 3 * repetitions, #ARGV do
  redis.call('ZADD', MARKS, text(seq), ARGV[i])
end

-- Over the limit the oldest marks go, and whatever they outdated is outdated by the floor instead. A call removes at
-- most 1000 more than it added, so that a lowered limit is reached step by step. The sentinel has the highest score
-- of all and is not counted, so it is never among those removed.
local excess = redis.call('ZCARD', MARKS) - 1 - tonumber(ARGV[4])
if excess > 0 then
  local removed = redis.call('ZPOPMIN', MARKS, math.min(excess, #ARGV + 1000))
  local highest = tonumber(removed[#removed])
  if highest > meta.floor then
    redis.call('HSET', META, 'floor', text(highest))
  end
end

local function is_repetition(intent)
  return string.sub(intent, 1, 6) == 'again-'
end

-- One that was put off since it was found due is still to come.
local deadline = ARGV[6] ~= '' and tonumber(redis.call('ZSCORE', INTENTS, ARGV[6]) or '')
if deadline and not (is_repetition(ARGV[6]) and deadline > now()) then
  redis.call('ZREM', INTENTS, ARGV[6])
  redis.call('HDEL', INTENT_TAGS, ARGV[6])
end

-- The same repetition may be waiting for an earlier write: it is put off. What was stored between the two writes is
-- outdated by this one.
for i = 10, 7 + 3 * repetitions, 3 do
  local intent, due, tags = ARGV[i], now() + tonumber(ARGV[i + 1]), ARGV[i + 2]
  if redis.call('ZCARD', INTENTS) > tonumber(ARGV[8]) and not redis.call('ZSCORE', INTENTS, intent) then
    due = math.ceil(due / 1000000) * 1000000
    intent, tags = 'again-everything-' .. text(due), '*'
  end
  redis.call('ZADD', INTENTS, text(due), intent)
  redis.call('HSET', INTENT_TAGS, intent, tags)
end

local nudge = table.concat({ 'n', meta.epoch, text(meta.seq), text(seq), ARGV[5] }, ' ')
redis.call('PUBLISH', CHANNEL, ARGV[7] == '' and nudge or nudge .. '\n' .. ARGV[7])

return { meta.epoch, text(seq), cause, text(meta.seq), text(epoch_age()), redis.call('HGETALL', MEMBERS), text(longest_lease()) }
