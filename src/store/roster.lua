-- Lists the members of the fleet and counts the intents. Changes nothing but an epoch start that lies in the future. Leaves
-- out values that no Larder wrote.
-- Returns epoch and last sequence issued ('' where there is none), the state of the epoch, all members, intents, how
-- many of those are due (counted up to a thousand), the revision of the registry, and of each member in the same order the
-- revision that it has taken in and its rules.
local meta = redis.call('HMGET', META, 'epoch', 'seq')
local intents = math.max(redis.call('ZCARD', INTENTS) - 1, 0)
local due = #redis.call('ZRANGEBYSCORE', INTENTS, '-inf', text(now()), 'LIMIT', 0, 1000)
local all, rules_of = members(), {}
if ask('HEXISTS', REGISTRY, '*') then
  for i = 1, #all, 2 do
    local number, _, learned, _, rules = registration(all[i])
    rules_of[#rules_of + 1] = { text(learned or 0), number and rules or UNKNOWN }
  end
end
local revision = sequence(redis.call('HGET', META, 'revision')) or 0
return { epoch(meta[1]) or '', text(sequence(meta[2]) or 0), state(), all, intents, due, text(revision), rules_of }
