-- Takes the next sequence and marks the tags with it.
-- ARGV[4]  marks to keep at most, at least 1
-- ARGV[5]  proxy that invalidates, or ''
-- ARGV[6]  intent that is carried out, or ''
-- ARGV[7]  microseconds until it is carried out again, or '' for never
-- ARGV[8]  its tags then, in lines
-- ARGV[9]  the tags in lines, for the nudge, or '' to leave them out
-- ARGV[10…] tags
-- Returns epoch, the sequence taken, cause ('' if no epoch had to be started), the last sequence issued before it, age
-- of the epoch in microseconds, all members, the longest lease of the fleet in ms.
local meta, cause = valid_epoch()
local seq = next_sequence(meta.seq)
redis.call('HSET', META, 'seq', text(seq))
for i = 10, #ARGV do
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

if ARGV[6] ~= '' and ARGV[7] ~= '' then
  redis.call('ZADD', INTENTS, text(now() + tonumber(ARGV[7])), ARGV[6])
  redis.call('HSET', INTENT_TAGS, ARGV[6], ARGV[8])
elseif ARGV[6] ~= '' then
  redis.call('ZREM', INTENTS, ARGV[6])
  redis.call('HDEL', INTENT_TAGS, ARGV[6])
end

local nudge = table.concat({ 'n', meta.epoch, text(meta.seq), text(seq), ARGV[5] }, ' ')
redis.call('PUBLISH', CHANNEL, ARGV[9] == '' and nudge or nudge .. '\n' .. ARGV[9])

return { meta.epoch, text(seq), cause, text(meta.seq), text(epoch_age()), redis.call('HGETALL', MEMBERS), text(longest_lease()) }
