-- Records an intent, or sets the deadline of one that is recorded.
-- ARGV[4]  intent
-- ARGV[5]  microseconds until its deadline
-- ARGV[6]  its tags, in lines
-- Returns epoch, last sequence issued, cause ('' if no epoch had to be started), the highest of the floor and the root
-- tag's mark.
local meta, cause = valid_epoch()
redis.call('ZADD', INTENTS, text(now() + tonumber(ARGV[5])), ARGV[4])
redis.call('HSET', INTENT_TAGS, ARGV[4], ARGV[6])
local root = tonumber(redis.call('ZSCORE', MARKS, '*') or '0')
return { meta.epoch, text(meta.seq), cause, text(math.max(meta.floor, root)) }
