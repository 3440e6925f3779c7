-- Put a job down again, by the worker that holds it. What its caller wishes by now decides whether
-- it is canceled, paused, or waits for another worker.
-- ARGV: id, fence, ttl s
-- Returns the status it has now, or '' if the worker does not hold it any more.
go_on_without_memory()
local id = ARGV[1]
if not holds(id, ARGV[2]) then return '' end
local wish = get(id, 'wish')
redis.call('HDEL', JOB .. id, 'wish', 'release')
redis.call('HINCRBY', JOB .. id, 'fence', 1)
-- that it was put down is not the job's failure
if tonumber(get(id, 'failures')) > 0 then redis.call('HINCRBY', JOB .. id, 'failures', -1) end
if wish == 'cancel' then
  finalise(id, 'canceled', tonumber(ARGV[3]), now())
elseif wish == 'pause' then
  withdraw(id)
  enter(id, 'paused')
else
  enqueue(id, true)
end
return get(id, 'status')
