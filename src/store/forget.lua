-- Drops an intent and its tags atomically.
-- KEYS[1]  {namespace}:intents
-- KEYS[2]  {namespace}:intent_tags
-- ARGV[1]  intent
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
