-- Stores the result of a walk with the time of the server's clock, which all readers share.
-- KEYS[1]  {namespace}:key_stats
-- ARGV[1]  the result, JSON
-- ARGV[2]  milliseconds until it expires
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
redis.call('SET', KEYS[1], now .. ' ' .. ARGV[1], 'PX', ARGV[2])
