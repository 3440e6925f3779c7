-- Create a job once: idempotency, record, queue and first event in one step.
-- KEYS: job, queued, all, events, idempotency
-- ARGV: id, fingerprint or '', idempotency seconds, most queued, record as JSON
-- Returns {'created'|'replayed', id}, {'conflict', ''} or {'full', ''}.
local id, fingerprint = ARGV[1], ARGV[2]
if fingerprint ~= '' then
  local known = redis.call('GET', KEYS[5])
  if known then
    local cut = string.find(known, ' ', 1, true)
    if string.sub(known, 1, cut - 1) ~= fingerprint then return {'conflict', ''} end
    local first = string.sub(known, cut + 1)
    -- unless it has been deleted since
    if redis.call('EXISTS', string.sub(KEYS[1], 1, -#id - 1) .. first) == 1 then
      return {'replayed', first}
    end
  end
end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then return {'full', ''} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for field, value in pairs(cjson.decode(ARGV[5])) do redis.call('HSET', KEYS[1], field, value) end
redis.call('HSET', KEYS[1], 'id', id, 'status', 'queued', 'created_ms', now, 'attempts', 0, 'fence', 0)
redis.call('ZADD', KEYS[2], now, id)
redis.call('ZADD', KEYS[3], now, id)
redis.call('XADD', KEYS[4], '*', 'event', 'status', 'data', cjson.encode({status = 'queued'}))
if fingerprint ~= '' then
  redis.call('SET', KEYS[5], fingerprint .. ' ' .. id, 'EX', tonumber(ARGV[3]))
end
return {'created', id}
