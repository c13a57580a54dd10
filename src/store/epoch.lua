-- Prefix of the other scripts: checks that the namespace is complete, and starts a new epoch if not.
--
-- KEYS[1]  {namespace}:meta     hash: epoch, seq (last sequence issued), floor, run_id, born (microseconds), cause (why the
--          epoch began), lease (the longest of the fleet, ms), lease_at (when a proxy last confirmed it), soft_invalidated (1 once there
--          was a soft mark), last_sync (time of the last sync), silent_from and silent_until (the last period without a sync;
--          microseconds), generation (number of such periods in this epoch), unknown (1 if proxies without a record may have
--          pending invalidations), shortest (the shortest sync period, ms), shortest_at (when a proxy last confirmed it),
--          tidied (when records of members were last removed), revision (of the registry: grows with each change of it)
-- KEYS[2]  {namespace}:marks    sorted set: tag -> sequence of its last invalidation, '(soft)' tag -> that of its last
--                               soft one, and the sentinel
-- KEYS[3]  {namespace}:members  hash: proxy -> syncs:lease in ms:epoch:applied:epoch:generation, and the sentinel; no
--                               write waits for a member with a lease of 0
-- KEYS[4]  {namespace}:intents  sorted set: intent -> deadline (microseconds), and the sentinel
-- KEYS[5]  {namespace}:intent_tags  hash: intent -> its tags, one per line
-- KEYS[6]  {namespace}:graces   hash: tag with a soft mark -> end of its grace (microseconds)
-- KEYS[7]  {namespace}:registry hash: proxy -> number of its rules in this process:revision that registered them:revision that
--                               the proxy has taken in:1 if the rules are settled:the rules, a digest for each family;
--                               '(settled)' -> the rules that were settled last. Not in every script
-- KEYS[8]  {namespace}:bypasses hash: family -> end (microseconds):by whose order. Not in every script
-- ARGV[1]  run_id of the server, read on this connection
-- ARGV[2]  epoch to start if one must be started
-- ARGV[3]  the channel
--
-- Other clients may have written anything to these keys: another type, no UTF-8, huge values. A value that no Larder can
-- have written counts as lost.
--
-- Epochs are 64 bits wide and stay strings: Lua's numbers are exact to 53 bits only, enough for sequences.
local META, MARKS, MEMBERS, INTENTS, INTENT_TAGS, GRACES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local RUN_ID, CANDIDATE, CHANNEL = ARGV[1], ARGV[2], ARGV[3]
local SENTINEL = '(sentinel)'
local SOFT = '(soft)'
local LARGEST = 9007199254740991
-- Upper bound of the configuration for leases, ms.
local LONGEST_LEASE = 60000
-- Maximum number of members: each write reads all of them.
local MEMBERS_MAX = 10000
-- No intent is due later than this, microseconds: a week.
local FAR = 7 * 24 * 60 * 60 * 1000000
-- Longest list of tags that is returned, bytes.
local TAGS_MAX = 1048576

-- tostring() would round to 14 digits.
local function text(number)
  return string.format('%.0f', number)
end

-- Parses a number as Larder writes it; nil if it is missing or malformed.
local function sequence(field)
  local number = field and #field <= 16 and string.find(field, '^%d+$') and tonumber(field)
  if number and number < LARGEST then
    return number
  end
end

local function epoch(field)
  local is_one = field and #field <= 20 and string.find(field, '^[1-9]%d*$')
  return is_one and (#field < 20 or field <= '18446744073709551615') and field or nil
end

-- The reply to a command that reads or changes nothing; nil and true if the key is of another type.
local function ask(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then
    return reply
  elseif string.find(reply.err, 'WRONGTYPE', 1, true) then
    return nil, true
  end
  return redis.call(...)
end

-- Removes a key of another type than this command expects.
local function remove_if_other(command, key, field)
  local _, is_other = ask(command, key, field)
  if is_other then
    redis.call('UNLINK', key)
  end
end

-- The server's clock in microseconds.
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- The tag of a soft mark; nil for any other member of the marks.
local function tag_of_soft_mark(member)
  if string.sub(member, 1, #SOFT) == SOFT then
    return string.sub(member, #SOFT + 1)
  end
end

-- End of a tag's grace; 0 if it was lost, so that the soft mark counts as a hard one.
local function end_of_grace(tag)
  return sequence(redis.call('HGET', GRACES, tag)) or 0
end

-- The clock, but always above the last sequence, since a clock may be set back.
local function next_sequence(last)
  return math.max(now(), last + 1)
end

-- Whether the fields of meta, apart from the four that every read checks, are missing or well-formed.
local function is_meta_whole()
  local field = redis.call('HMGET', META, 'cause', 'soft_invalidated', 'lease', 'lease_at', 'last_sync', 'silent_from', 'silent_until',
    'generation', 'shortest', 'shortest_at', 'tidied', 'born', 'unknown', 'revision')
  if field[1] and (#field[1] > 40 or not string.find(field[1], '^[%a ]*$')) or field[2] and field[2] ~= '1' then
    return false
  end
  for i = 3, #field do
    if field[i] and not sequence(field[i]) then
      return false
    end
  end
  return true
end

-- Why the sequence, marks, members or intents may have been lost; '' if all are complete.
local function loss(meta)
  if not (meta.epoch and meta.seq and meta.floor and meta.run_id and meta.seq >= meta.floor) then
    return redis.call('EXISTS', MARKS) == 1 and 'meta lost' or 'new'
  elseif meta.run_id ~= RUN_ID then
    return 'restarted'
  elseif not is_meta_whole() then
    return 'meta lost'
  end
  -- Above the last sequence there is only the sentinel.
  local above = ask('ZRANGEBYSCORE', MARKS, '(' .. text(meta.seq), '+inf', 'LIMIT', 0, 2)
  if not above or #above ~= 1 or above[1] ~= SENTINEL then
    return 'marks lost'
  elseif ask('HEXISTS', MEMBERS, SENTINEL) ~= 1 then
    return 'members lost'
  elseif not ask('ZSCORE', INTENTS, SENTINEL) then
    return 'intents lost'
  end
  return ''
end

-- The longest lease of the members, in ms.
local function longest_of_members()
  local longest = 0
  for _, member in ipairs(redis.call('HGETALL', MEMBERS)) do
    longest = math.max(longest, sequence(string.match(member, '^%d+:(%d+):')) or 0)
  end
  return math.min(longest, LONGEST_LEASE)
end

-- The longest lease that any proxy may hold, in ms, including proxies whose records were lost.
local function longest_lease()
  local lease = sequence(redis.call('HGET', META, 'lease'))
  return lease and math.min(lease, LONGEST_LEASE) or longest_of_members()
end

-- Age of the epoch, in microseconds. If the clock was set back to before its start, it starts now: otherwise it would
-- look new until the clock has caught up.
local function epoch_age()
  local age = now() - (sequence(redis.call('HGET', META, 'born')) or 0)
  if age < 0 then
    redis.call('HSET', META, 'born', text(now()))
    age = 0
  end
  return age
end

-- Age of the epoch, longest lease, floor, number of marks, cause of the epoch, clock.
local function state()
  local field = redis.call('HMGET', META, 'floor', 'cause')
  local marks = math.max(redis.call('ZCARD', MARKS) - 1, 0)
  return { text(epoch_age()), text(longest_lease()), text(sequence(field[1]) or 0), marks, field[2] or '', text(now()) }
end

-- The change of epoch invalidates every existing entry, so the marks go. Members stay, since they may hold leases of the
-- previous epoch, and so does the longest lease.
local function start_epoch(last, cause)
  local seq = next_sequence(last)
  redis.call('UNLINK', MARKS, GRACES)
  remove_if_other('HEXISTS', MEMBERS, SENTINEL)
  remove_if_other('ZSCORE', INTENTS, SENTINEL)
  redis.call('ZADD', MARKS, '+inf', SENTINEL)
  redis.call('HSET', MEMBERS, SENTINEL, '')
  redis.call('ZADD', INTENTS, '+inf', SENTINEL)
  redis.call('HSET', META, 'epoch', CANDIDATE, 'seq', text(seq), 'floor', text(seq), 'run_id', RUN_ID, 'born', text(now()), 'cause', cause,
    'generation', '0', 'last_sync', text(now()), 'silent_from', text(now()), 'silent_until', text(now()), 'unknown', '0')
  redis.call('HDEL', META, 'soft_invalidated', 'shortest', 'shortest_at', 'tidied')
  if not sequence(redis.call('HGET', META, 'lease')) then
    redis.call('HDEL', META, 'lease', 'lease_at')
  elseif not sequence(redis.call('HGET', META, 'lease_at')) then
    redis.call('HSET', META, 'lease_at', text(now()))
  end
  return { epoch = CANDIDATE, seq = seq, floor = seq }
end

-- The valid epoch, and the cause if it had to be started ('' if not).
local function valid_epoch()
  -- A write that changes nothing, so that a server that takes no writes (a replica, a full one) refuses here.
  local _, is_other = ask('HSETNX', META, 'born', '0')
  if is_other then
    redis.call('UNLINK', META)
  end
  local field = redis.call('HMGET', META, 'epoch', 'seq', 'floor', 'run_id')
  local meta = { epoch = epoch(field[1]), seq = sequence(field[2]), floor = sequence(field[3]), run_id = field[4] }
  local cause = loss(meta)
  if cause ~= '' then
    meta = start_epoch(meta.seq or 0, cause)
  end
  -- These need no new epoch: an intent without tags invalidates everything, and a lost grace has ended.
  remove_if_other('HEXISTS', INTENT_TAGS, '*')
  remove_if_other('HEXISTS', GRACES, '*')
  return meta, cause
end

-- All members in pairs, and the names of fields that no Larder wrote; nil for these if there are too many fields.
local function members()
  if redis.call('HLEN', MEMBERS) > MEMBERS_MAX then
    return {}
  end
  local all, known, foreign = redis.call('HGETALL', MEMBERS), {}, {}
  for i = 1, #all, 2 do
    local member, record = all[i], all[i + 1]
    local syncs, lease = string.match(#record <= 128 and record or '', '^(%d+):(%d+):[%d:]+$')
    local is_lease = sequence(lease) and sequence(lease) <= LONGEST_LEASE
    if is_lease and sequence(syncs) and #member <= 64 and string.find(member, '^[%w%p]+$') then
      known[#known + 1], known[#known + 2] = member, record
    elseif member ~= SENTINEL then
      foreign[#foreign + 1] = member
    end
  end
  return known, foreign
end

-- Removes the fields that `members` found foreign; true if there were any. One may have been the record of a member that
-- holds a lease, so the caller must start a new epoch.
local function lost_members(foreign)
  if not foreign then
    redis.call('UNLINK', MEMBERS)
    redis.call('HSET', MEMBERS, SENTINEL, '')
    return true
  end
  for _, member in ipairs(foreign) do
    redis.call('HDEL', MEMBERS, member)
  end
  return #foreign > 0
end

-- Whether a Larder may have recorded this intent.
local function is_intent(id)
  return #id <= 64 and string.find(id, '^[%w%p]+$') and id ~= SENTINEL
end

-- The registry. A lost one costs misses: a member without rules conflicts with all others until its next sync.
local REGISTRY, BYPASSES = KEYS[7], KEYS[8]
local SETTLED, UNKNOWN = '(settled)', '(unknown)'

local function remove_registry_of_other_type()
  remove_if_other('HEXISTS', REGISTRY, '*')
  remove_if_other('HEXISTS', BYPASSES, '*')
end

-- Begins a revision of the registry, and returns it.
local function revise()
  local revision = next_sequence(sequence(redis.call('HGET', META, 'revision')) or 0)
  redis.call('HSET', META, 'revision', text(revision))
  redis.call('PUBLISH', CHANNEL, 'r ' .. text(revision))
  return revision
end

-- What a member has registered: number, revision, revision taken in, '1' if settled, rules. Nil unless a Larder wrote it.
local function registration(member)
  local number, at, learned, settled, rules =
    string.match(redis.call('HGET', REGISTRY, member) or '', '^(%d+):(%d+):(%d+):([01]):([%x ]*)$')
  if sequence(number) and sequence(at) and sequence(learned) then
    return tonumber(number), tonumber(at), tonumber(learned), settled, rules
  end
end

-- Removes a member and its rules. Returns 1 if it was one.
local function remove_member(member)
  local removed = redis.call('HDEL', MEMBERS, member)
  local _, _, _, settled, rules = registration(member)
  if settled == '1' then
    redis.call('HSET', REGISTRY, SETTLED, rules)
  end
  -- The others took a member without rules for one with rules of its own.
  if removed + redis.call('HDEL', REGISTRY, member) > 0 then
    revise()
  end
  return removed
end

