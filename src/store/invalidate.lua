-- Takes the next sequence and marks the tags with it.
-- ARGV[3]  marks to keep at most, at least 1
-- ARGV[4…] tags
-- Returns epoch, the sequence taken, cause ('' if no epoch had to be started), the last sequence issued before it.
local meta, cause = valid_epoch()
local seq = next_sequence(meta.seq)
redis.call('HSET', META, 'seq', text(seq))
for i = 4, #ARGV do
  redis.call('ZADD', MARKS, text(seq), ARGV[i])
end

-- Over the limit the oldest marks go, and whatever they outdated is outdated by the floor instead. A call removes at
-- most 1000 more than it added, so that a lowered limit is reached step by step. The sentinel has the highest score
-- of all and is not counted, so it is never among those removed.
local excess = redis.call('ZCARD', MARKS) - 1 - tonumber(ARGV[3])
if excess > 0 then
  local removed = redis.call('ZPOPMIN', MARKS, math.min(excess, #ARGV + 1000))
  local highest = tonumber(removed[#removed])
  if highest > meta.floor then
    redis.call('HSET', META, 'floor', text(highest))
  end
end
return { meta.epoch, text(seq), cause, text(meta.seq) }
