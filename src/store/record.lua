-- Records an intent, or renews the deadline and tags of a recorded one.
-- ARGV[4]  intent
-- ARGV[5]  microseconds until its deadline
-- ARGV[6]  its tags, one per line
-- ARGV[7]  maximum number of intents
-- Returns one text, which clients parse faster than a list: epoch, last sequence issued, the highest of the floor and the
-- root tag's mark; then on a line of its own the cause, empty if no epoch had to be started.
local meta, cause = valid_epoch()
if redis.call('ZCARD', INTENTS) > tonumber(ARGV[7]) then
  -- An intent that is due in more than a week is not from a Larder.
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
  return redis.error_reply('LARDER too many write intents are pending')
end
redis.call('ZADD', INTENTS, text(now() + tonumber(ARGV[5])), ARGV[4])
redis.call('HSET', INTENT_TAGS, ARGV[4], ARGV[6])
local root = tonumber(redis.call('ZSCORE', MARKS, '*') or '0')
return table.concat({ meta.epoch, text(meta.seq), text(math.max(meta.floor, root)) }, ' ') .. '\n' .. cause
