-- Claims a fetch, unless another proxy has.
-- KEYS[1]  namespace:fetch:…  the claim, with a TTL
-- ARGV[1]  the claim to be kept there
-- ARGV[2]  milliseconds until it lapses
-- ARGV[3]  a claim that gives way to it, or ''
-- Returns the claim that does not give way, or ''.
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[3] then
  return known
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
