-- Keeps what a walk has found, with the time by the clock that all readers share.
-- KEYS[1]  {namespace}:key_stats
-- ARGV[1]  what it has found
-- ARGV[2]  milliseconds until nobody needs it any more
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
redis.call('SET', KEYS[1], now .. ' ' .. ARGV[1], 'PX', ARGV[2])
