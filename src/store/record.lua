-- Records an intent, or sets the deadline of one that is recorded.
-- ARGV[4]  intent
-- ARGV[5]  microseconds until its deadline
-- ARGV[6]  its tags, in lines
-- ARGV[7]  intents to keep at most
-- Returns epoch, last sequence issued, cause ('' if no epoch had to be started), the highest of the floor and the root
-- tag's mark.
local meta, cause = valid_epoch()
if redis.call('ZCARD', INTENTS) > tonumber(ARGV[7]) then
  -- No Larder has announced what is due in a week.
  local foreign = redis.call('ZRANGEBYSCORE', INTENTS, '(' .. text(now() + FAR), '(+inf', 'LIMIT', 0, 10000)
  for _, intent in ipairs(foreign) do
    redis.call('ZREM', INTENTS, intent)
    redis.call('HDEL', INTENT_TAGS, intent)
  end
  if #foreign > 0 and cause == '' then
    cause = 'intents lost'
    meta = start_epoch(meta.seq, cause)
  end
end
if redis.call('ZCARD', INTENTS) > tonumber(ARGV[7]) and not redis.call('ZSCORE', INTENTS, ARGV[4]) then
  return redis.error_reply('LARDER too many writes are announced and not heard of again')
end
redis.call('ZADD', INTENTS, text(now() + tonumber(ARGV[5])), ARGV[4])
redis.call('HSET', INTENT_TAGS, ARGV[4], ARGV[6])
local root = tonumber(redis.call('ZSCORE', MARKS, '*') or '0')
return { meta.epoch, text(meta.seq), cause, text(math.max(meta.floor, root)) }
