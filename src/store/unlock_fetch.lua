-- Ends a claim unless another has taken its place, and tells that its fetch has ended.
-- KEYS[1]  namespace:fetch:…  the claim
-- ARGV[1]  the claim that was kept there
-- ARGV[2]  the channel
-- ARGV[3]  what to tell
if redis.pcall('GETRANGE', KEYS[1], 0, 255) == ARGV[1] then
  redis.call('UNLINK', KEYS[1])
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
