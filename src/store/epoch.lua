-- Put before the scripts of the store: is the namespace whole, and if not, a new epoch.
--
-- KEYS[1]  {namespace}:meta     hash: epoch, seq (last sequence issued), floor, run_id, born (microseconds), cause (why the
--          epoch began), lease (the longest of the fleet, ms), lease_at (when somebody last had it), softened (1 once there
--          was a soft mark), heard (when the last sync was executed),
--          silent_from and silent_until (the last time without any; microseconds), generation (how many such
--          times there were in this epoch), unknown (1 if proxies without a record may have something to deliver), shortest (the shortest lease, ms), shortest_at (when somebody last had it),
--          tidied (when records of members were last removed)
-- KEYS[2]  {namespace}:marks    sorted set: tag -> sequence of its last invalidation, '(soft)' tag -> that of its last
--                               soft one, and the sentinel
-- KEYS[3]  {namespace}:members  hash: proxy -> syncs:lease in ms:epoch:applied:epoch:generation, and the sentinel; a lease of
--                               0 is that of a member for which no write waits
-- KEYS[4]  {namespace}:intents  sorted set: intent -> deadline (microseconds), and the sentinel
-- KEYS[5]  {namespace}:intent_tags  hash: intent -> its tags, in lines
-- KEYS[6]  {namespace}:graces   hash: tag with a soft mark -> end of its grace (microseconds)
-- ARGV[1]  run_id of the server, learned on this connection
-- ARGV[2]  epoch to start if one must be started
-- ARGV[3]  the channel
--
-- Epochs are 64 bits wide and stay strings: Lua's numbers are exact to 53 bits only, enough for sequences.
local META, MARKS, MEMBERS, INTENTS, INTENT_TAGS, GRACES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local RUN_ID, CANDIDATE, CHANNEL = ARGV[1], ARGV[2], ARGV[3]
local SENTINEL = '(sentinel)'
local SOFT = '(soft)'
local LARGEST = 9007199254740991

-- tostring() would round to 14 digits.
local function text(number)
  return string.format('%.0f', number)
end

-- A sequence as it stands in meta; nil when it is missing or cannot be one.
local function sequence(field)
  local number = field and tonumber(field)
  if number and number >= 0 and number < LARGEST and number == math.floor(number) then
    return number
  end
end

local function epoch(field)
  return field and string.find(field, '^%d+$') and field
end

-- The server's clock in microseconds.
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- The tag whose soft mark this member of the marks is; nil for any other.
local function softened(member)
  if string.sub(member, 1, #SOFT) == SOFT then
    return string.sub(member, #SOFT + 1)
  end
end

-- End of a tag's grace; 0, which is past, if it was lost: then the soft mark counts as a hard one.
local function end_of_grace(tag)
  return tonumber(redis.call('HGET', GRACES, tag) or '') or 0
end

-- The clock, but always above the last sequence: a clock may be set back.
local function next_sequence(last)
  return math.max(now(), last + 1)
end

-- Why the sequence, marks, members or intents may have been lost; '' when all are whole.
local function loss(meta)
  if not (meta.epoch and meta.seq and meta.floor and meta.run_id) then
    return redis.call('EXISTS', MARKS) == 1 and 'meta lost' or 'new'
  elseif meta.run_id ~= RUN_ID then
    return 'restarted'
  elseif not redis.call('ZSCORE', MARKS, SENTINEL) then
    return 'marks lost'
  elseif redis.call('HEXISTS', MEMBERS, SENTINEL) == 0 then
    return 'members lost'
  elseif not redis.call('ZSCORE', INTENTS, SENTINEL) then
    return 'intents lost'
  end
  return ''
end

-- The longest lease of the members, in ms.
local function longest_of_members()
  local longest = 0
  for _, member in ipairs(redis.call('HGETALL', MEMBERS)) do
    longest = math.max(longest, tonumber(string.match(member, '^%d+:(%d+):') or 0))
  end
  return longest
end

-- The longest lease that a proxy may hold, in ms; a proxy that the members' table has lost, too.
local function longest_lease()
  return tonumber(redis.call('HGET', META, 'lease') or '') or longest_of_members()
end

-- How long ago the epoch began, in microseconds. A clock that was set back behind its beginning would make it look new
-- for as long as that takes.
local function epoch_age()
  local age = now() - (tonumber(redis.call('HGET', META, 'born') or '') or 0)
  if age < 0 then
    redis.call('HSET', META, 'born', text(now()))
    age = 0
  end
  return age
end

-- What there is to say of the epoch: its age, the longest lease, the floor, marks, why it began, the clock.
local function state()
  local field = redis.call('HMGET', META, 'floor', 'cause')
  local marks = math.max(redis.call('ZCARD', MARKS) - 1, 0)
  return { text(epoch_age()), text(longest_lease()), text(sequence(field[1]) or 0), marks, field[2] or '', text(now()) }
end

-- Everything stamped so far is outdated by the change of epoch alone; no mark is needed any more. Members stay: they
-- may hold leases of the epoch before. So does the longest lease.
local function start_epoch(last, cause)
  local seq = next_sequence(last)
  redis.call('UNLINK', MARKS, GRACES)
  redis.call('ZADD', MARKS, '+inf', SENTINEL)
  redis.call('HSET', MEMBERS, SENTINEL, '')
  redis.call('ZADD', INTENTS, '+inf', SENTINEL)
  redis.call('HSET', META, 'epoch', CANDIDATE, 'seq', text(seq), 'floor', text(seq), 'run_id', RUN_ID, 'born', text(now()), 'cause', cause,
    'generation', '0', 'heard', text(now()), 'silent_from', text(now()), 'silent_until', text(now()), 'unknown', '0')
  redis.call('HDEL', META, 'softened')
  return { epoch = CANDIDATE, seq = seq, floor = seq }
end

-- The epoch that is valid now, and why it had to be started ('' if it had not).
local function valid_epoch()
  -- A write that changes nothing, so that a server that takes no writes (a replica, a full one) refuses here.
  redis.call('HSETNX', META, 'born', '0')
  local field = redis.call('HMGET', META, 'epoch', 'seq', 'floor', 'run_id')
  local meta = { epoch = epoch(field[1]), seq = sequence(field[2]), floor = sequence(field[3]), run_id = field[4] }
  local cause = loss(meta)
  if cause ~= '' then
    meta = start_epoch(meta.seq or 0, cause)
  end
  return meta, cause
end

